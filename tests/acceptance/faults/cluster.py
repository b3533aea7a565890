"""A deployment under fire: workers, sessions that write and read, and the final check."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestWorker  # type: ignore[import-untyped]  # it has no types
from redis import Redis
from tests.acceptance.faults import session, watcher
from tests.nodes.processes import ChildProcess, RedisServer
from tests.nodes.proxy import RedisProxy
from tests.nodes.waiting import DEADLINE, wait_until

from livethread import ReadThreadParams
from livethread_config import Settings, names
from livethread_worker.embedded.processes import settings_env
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.verify import VerifyReport, verify

#: How many lines must be written between two faults.
LINES_BETWEEN_FAULTS = 60


@dataclass(slots=True)
class Cluster:
    """The deployment that the faults hit."""

    settings: Settings
    redis_server: RedisServer
    proxy: RedisProxy
    workers: list[CeleryTestWorker]
    folder: Path
    random: random.Random
    seed: int
    #: Names of the conversations that all sessions share.
    threads: tuple[str, ...] = ("apples", "pears", "plums", "cherries")
    #: How many sessions write at the same time.
    session_count: int = 3
    pace_s: float = 0.01
    new_thread_after_s: float = 1e9
    #: How long the deployment may take to do what a fault waits for.
    patience_s: float = DEADLINE
    sessions: list[ChildProcess] = field(default_factory=list)
    watchers: list[ChildProcess] = field(default_factory=list)
    #: Whether Redis may have lost accepted tasks.
    redis_lost_data: bool = False
    #: Each rollout's size and time when its lines were last counted, and their number.
    _counted: dict[Path, tuple[tuple[int, int], int]] = field(default_factory=dict)
    _started: int = 0

    @property
    def redis(self) -> Redis:
        return self.redis_server.client

    @property
    def shards(self) -> list[names.ShardKeys]:
        """The keys of each shard."""
        return [names.ShardKeys(self.settings.key_prefix, 0)]

    def keys_of(self, thread_id: str) -> names.ShardKeys:
        """Return the keys of the thread's shard."""
        [keys] = self.shards
        return keys

    @property
    def queues(self) -> list[str]:
        """The Redis keys of the lists of waiting doorbells."""
        prefix = self.settings.key_prefix
        return [f"{names.celery_key_prefix(prefix)}{names.queue_name(prefix, keys.shard)}" for keys in self.shards]

    @property
    def home(self) -> Home:
        """The home that the next fault hits."""
        return Home(self.settings.home)

    @property
    def homes(self) -> list[Home]:
        """All homes."""
        return [self.home]

    def livethread(self, *arguments: str) -> str:
        """Run a command of ``livethread`` with the settings; return what it prints."""
        command = [sys.executable, "-m", "livethread", *arguments]
        env = settings_env(self.settings)
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    def arm(self, point: str) -> Path:
        """Arm a fault point of the workers; return the file that appears when a worker dies there."""
        reached = self.folder / "points" / f"{point}.reached"
        reached.unlink(missing_ok=True)
        (self.folder / "points" / point).touch()
        return reached

    # -- sessions ------------------------------------------------------------------------------------------

    def client(self) -> Settings:
        """Return the settings of the next session."""
        return self.settings

    def readers(self) -> list[Settings]:
        """Return the settings of the watchers: one reads the home, one asks the workers."""
        return [self.settings, self.settings.model_copy(update={"reads": "celery"})]

    def start_session(self) -> ChildProcess:
        """Start a session, and return once it is open; from then on, SIGTERM ends it in order."""
        self._started += 1
        process, settings = f"session-{self._started}", self.client()
        plan = {
            "settings": settings.model_dump(mode="json", exclude_none=True),
            "journal": str(self.folder / f"{process}.jsonl"),
            "process": process,
            "seed": self.seed,
            "threads": list(self.threads),
            "pace_s": self.pace_s,
            "new_thread_after_s": self.new_thread_after_s,
        }
        command = [sys.executable, session.__file__, json.dumps(plan)]
        child = ChildProcess(command, settings_env(settings), self.folder, process)
        child.start()
        self.sessions.append(child)
        child.wait_for_log(session.OPEN)
        return child

    def start(self) -> None:
        for _ in range(self.session_count):
            self.start_session()
        for number, settings in enumerate(self.readers(), start=1):
            command = [sys.executable, watcher.__file__, settings.model_dump_json(exclude_none=True)]
            child = ChildProcess(command, settings_env(settings), self.folder, f"watcher-{number}")
            child.start()
            self.watchers.append(child)
            child.wait_for_log(watcher.OPEN)
        self.go_on()

    def line_count(self) -> int:
        """Return how many lines the rollouts have."""
        count = 0
        for _, path in itertools.chain(*(home.rollouts() for home in self.homes)):
            with suppress(OSError):  # it is being moved
                stat = path.stat()
                state = stat.st_size, stat.st_mtime_ns
                if path not in self._counted or self._counted[path][0] != state:
                    self._counted[path] = state, path.read_bytes().count(b"\n")
                count += self._counted[path][1]
        return count

    def go_on(self, lines: int = LINES_BETWEEN_FAULTS) -> None:
        """Wait until the rollouts have *lines* more lines, which shows that the deployment works."""
        due = self.line_count() + lines
        try:
            wait_until(lambda: self.line_count() >= due, f"{lines} more lines", self.patience_s)
        except AssertionError as error:
            running = {child.name: child.is_running for child in self.sessions}
            error.add_note(f"{due - self.line_count()} are missing; sessions: {running}; left: {self.left()}")
            raise

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self) -> VerifyReport:
        """End the sessions in order, and check the promises."""
        self.end_sessions()
        [report] = self.judge()
        return report

    def end_sessions(self) -> None:
        """End the sessions in order, wait until all their tasks are applied, and have the watchers judge what they saw."""
        self._end([child for child in self.sessions if child.is_running])
        wait_until(lambda: not self.left(), f"empty mailboxes: {self.left()}", self.patience_s)
        self._end(self.watchers)

    @staticmethod
    def _end(children: list[ChildProcess]) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        for child in children:
            wait_until(lambda: not child.is_running, f"the end of {child.name}", session.CLOSING + 20)  # noqa: B023 - awaited at once
            assert child.returncode == 0, f"{child.name} ended with {child.returncode}:\n{child.logs()[-3000:]}"

    def judge(self) -> list[VerifyReport]:
        """Compare each home with all journals."""
        journals = sorted(self.folder.glob("session-*.jsonl"))
        for home in self.homes:
            asyncio.run(self._read_all(home))
        return [verify(home, journals, redis_lost_data=self.redis_lost_data) for home in self.homes]

    async def _read_all(self, home: Home) -> None:
        """Read every thread, so that the index picks up what another program wrote last."""
        async with LocalThreadStore(self.settings.model_copy(update={"home": home.root})) as store:
            for thread_id in {thread_id for thread_id, _ in home.rollouts()}:
                await store.read_thread(ReadThreadParams(thread_id=thread_id))

    def left(self) -> dict[str, Any]:
        """Return the mailboxes that are not empty, and the parked threads."""
        left: dict[str, Any] = {}
        for keys in self.shards:
            left |= {str(key): self.redis.xlen(key) for key in self.redis.keys(keys.mailbox("*"))}
            left |= {f"parked {thread!r}": why for thread, why in self.redis.hgetall(keys.parked).items()}
        return left
