"""A deployment under fire: workers, sessions that write and read, and the final check."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestWorker  # type: ignore[import-untyped]  # it has no types
from redis import Redis
from tests.acceptance.faults import session
from tests.nodes.processes import ChildProcess, RedisServer
from tests.nodes.proxy import RedisProxy
from tests.nodes.waiting import wait_until

from livethread import ReadThreadParams
from livethread_config import Settings, names
from livethread_worker.embedded.processes import settings_env
from livethread_worker.store import LocalThreadStore
from livethread_worker.store.files.home import Home
from livethread_worker.verify import VerifyReport, verify

#: Names of the conversations that all sessions share.
THREADS = ("apples", "pears", "plums", "cherries")

#: How many sessions write at the same time.
SESSIONS = 3

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
    pace_s: float = 0.01
    new_thread_after_s: float = 1e9
    sessions: list[ChildProcess] = field(default_factory=list)
    #: Whether Redis may have lost accepted tasks.
    redis_lost_data: bool = False
    #: Each rollout's size and time when its lines were last counted, and their number.
    _counted: dict[Path, tuple[tuple[int, int], int]] = field(default_factory=dict)
    _started: int = 0

    @property
    def redis(self) -> Redis:
        return self.redis_server.client

    @property
    def keys(self) -> names.ShardKeys:
        return names.ShardKeys(self.settings.key_prefix, 0)

    @property
    def queue(self) -> str:
        """The Redis key of the list of waiting doorbells."""
        prefix = self.settings.key_prefix
        return f"{prefix}:celery:{names.queue_name(prefix, 0)}"

    @property
    def home(self) -> Home:
        return Home(self.settings.home)

    def arm(self, point: str) -> Path:
        """Arm a fault point of the workers; return the file that appears when a worker dies there."""
        reached = self.folder / "points" / f"{point}.reached"
        reached.unlink(missing_ok=True)
        (self.folder / "points" / point).touch()
        return reached

    # -- sessions ------------------------------------------------------------------------------------------

    def start_session(self) -> ChildProcess:
        """Start a session, and return once it is open; from then on, SIGTERM ends it in order."""
        self._started += 1
        process = f"session-{self._started}"
        plan = {
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
            "journal": str(self.folder / f"{process}.jsonl"),
            "process": process,
            "seed": self.seed,
            "threads": list(THREADS),
            "pace_s": self.pace_s,
            "new_thread_after_s": self.new_thread_after_s,
        }
        command = [sys.executable, session.__file__, json.dumps(plan)]
        child = ChildProcess(command, settings_env(self.settings), self.folder, process)
        child.start()
        self.sessions.append(child)
        child.wait_for_log(session.OPEN)
        return child

    def start(self) -> None:
        for _ in range(SESSIONS):
            self.start_session()
        self.go_on()

    def line_count(self) -> int:
        """Return how many lines the rollouts have."""
        count = 0
        for _, path in self.home.rollouts():
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
            wait_until(lambda: self.line_count() >= due, f"{lines} more lines")
        except AssertionError as error:
            running = {child.name: child.is_running for child in self.sessions}
            error.add_note(f"{due - self.line_count()} are missing; sessions: {running}; left: {self.left()}")
            raise

    # -- the end -------------------------------------------------------------------------------------------

    def finish(self) -> VerifyReport:
        """End the sessions in order, and check the promises."""
        running = [child for child in self.sessions if child.is_running]
        for child in running:
            child.signal(signal.SIGTERM)
        for child in running:
            wait_until(lambda: not child.is_running, f"the end of {child.name}", session.CLOSING + 20)  # noqa: B023 - awaited at once
            assert child.returncode == 0, f"{child.name} ended with {child.returncode}:\n{child.logs()[-3000:]}"
        wait_until(lambda: not self.left(), f"empty mailboxes: {self.left()}")
        asyncio.run(self.read_all())
        return verify(self.home, sorted(self.folder.glob("session-*.jsonl")), redis_lost_data=self.redis_lost_data)

    async def read_all(self) -> None:
        """Read every thread, so that the index picks up what another program wrote last."""
        async with LocalThreadStore(self.settings) as store:
            for thread_id, _ in self.home.rollouts():
                await store.read_thread(ReadThreadParams(thread_id=thread_id))

    def left(self) -> dict[str, Any]:
        """Return the mailboxes that are not empty, and the parked threads."""
        mailboxes: dict[str, Any] = {
            str(key): self.redis.xlen(key) for key in self.redis.keys(self.keys.mailbox("*"))
        }
        return mailboxes | {f"parked {thread!r}": why for thread, why in self.redis.hgetall(self.keys.parked).items()}
