"""Every sentence that a status can begin with, and what to do about each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any


class State(StrEnum):
    """The state of a deployment, worst first."""

    STUCK = "stuck"
    PARKED = "parked"
    BEHIND = "behind"
    #: Nothing runs.
    IDLE = "idle"
    WELL = "well"


class Sentence(Enum):
    """What can be true of a deployment: its state, the sentence, and what to do. Worse ones come first."""

    EMBEDDED_AWAY = (
        State.STUCK,
        "the embedded Redis does not answer",
        "run livethread up, or a program that opens a store: each starts it with all that it accepted. If it hangs, end it first",
    )
    REDIS_AWAY = (
        State.STUCK,
        "Redis does not answer",
        "start it, or correct LIVETHREAD_REDIS_URL. Clients keep a bounded number of tasks meanwhile and send them later",
    )
    REDIS_ERROR = (
        State.STUCK,
        "Redis answers with an error",
        "LOADING passes by itself; for NOAUTH, WRONGPASS and NOPERM correct the user in LIVETHREAD_REDIS_URL, or its rights",
    )
    REDIS_UNFIT = (
        State.STUCK,
        "this Redis cannot be used",
        "do what the reason says; clients and workers refuse it for the same reason",
    )
    REDIS_FULL = (
        State.STUCK,
        "Redis is full and refuses new tasks",
        "running workers empty it. If it stays full, raise its maxmemory, or remove what else fills it",
    )
    REDIS_READ_ONLY = (
        State.STUCK,
        "Redis refuses writes",
        "free space on Redis' own disk; if it is a replica, point LIVETHREAD_REDIS_URL at the master",
    )
    DISK_FULL = (
        State.STUCK,
        "the disk of a home is full",
        "free space on the disk of the home. Its threads then continue by themselves; retry threads that were parked meanwhile",
    )
    NO_WORKER = (
        State.STUCK,
        "no worker answers",
        "start workers on the host of the home, or restart those that hang: livethread up, or your service manager",
    )
    UNSERVED_SHARD = (
        State.STUCK,
        "a shard has no worker",
        "start a worker on the host of the shard's home, with that LIVETHREAD_HOME; livethread shards lists them",
    )
    UNANSWERED_DOORBELLS = (
        State.STUCK,
        "workers run, but answer no doorbell",
        "read the workers' logs, and restart the workers: nothing is lost. No other program may take the queue's messages",
    )
    PARKED = (
        State.PARKED,
        "threads are parked",
        "livethread parked says why; correct the cause and run livethread parked retry THREAD, or drop the task",
    )
    RETRIED = (
        State.BEHIND,
        "a task fails and is tried again",
        "correct what the reason says: end the program that holds the thread's lock, repair the index or the disk",
    )
    BEHIND = (
        State.BEHIND,
        "workers are behind",
        "start more workers if tasks come faster than they are applied; else wait until the backlog is cleared",
    )
    EMBEDDED_IDLE = (
        State.IDLE,
        "nothing runs here now",
        "nothing, if that is right: the next program that opens a store, or livethread up, starts Redis and workers",
    )
    LOST_WORKER = (
        State.WELL,
        "a worker is gone without signing off",
        "if nothing restarts it, start it; the others do its work meanwhile. It is forgotten 10 minutes after its last sign",
    )
    NO_PERSISTENCE = (
        State.WELL,
        "Redis writes no append-only file",
        "set appendonly to yes: if Redis stops, it loses accepted tasks that are not applied yet",
    )
    EVICTION = (
        State.WELL,
        "Redis may drop keys when its memory is full",
        "set maxmemory-policy to noeviction: writers' counters and fences can expire early",
    )
    REDIS_NEARLY_FULL = (
        State.WELL,
        "Redis is nearly full",
        "raise its maxmemory, or start more workers, before it refuses new tasks",
    )
    DISK_NEARLY_FULL = (
        State.WELL,
        "the disk of the home is nearly full",
        "free space before tasks fail; LIVETHREAD_COMPRESS_AFTER_DAYS compresses rollouts that are no longer written",
    )
    WELL = (State.WELL, "all is well", "")

    def __init__(self, state: State, text: str, advice: str) -> None:
        self.state = state
        self.text = text
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence that is true, with what makes it true."""

    sentence: Sentence
    #: Numbers, names or a reason; may be empty.
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.sentence.text}: {self.detail}" if self.detail else self.sentence.text

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "name": self.sentence.name.lower(),
            "state": self.sentence.state,
            "sentence": self.sentence.text,
            "detail": self.detail,
            "advice": self.sentence.advice,
        }
