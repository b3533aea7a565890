"""The local runtime as its users see it: Redis answers, and a worker runs, while they need them.

`use_local_runtime` shares one detached runner among all processes of a home. `running` makes the processes children of
this one, so that a demonstration or a test can see and kill them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final, Self

from livethread.errors import Unavailable
from livethread_config import Settings
from livethread_worker.embedded import runtime_locks
from livethread_worker.embedded.output import LogFiles, explain_log
from livethread_worker.embedded.processes import redis_spec, settings_env, worker_spec
from livethread_worker.embedded.redis_server import answers, prepare_directories, run_dir
from livethread_worker.embedded.supervisor import Supervisor

logger = logging.getLogger(__name__)

POLL_INTERVAL: Final = 0.02  # seconds
#: How long the runtime may take to serve; an older one may have to end first.
START_TIMEOUT: Final = 60.0  # seconds
#: How often users check that the home has a runner; less often while it cannot be started.
GUARD_INTERVAL: Final = 0.5  # seconds
MAX_GUARD_INTERVAL: Final = 30.0  # seconds
#: How long the last user waits for the runner's end, beyond the worker's own grace.
END_TIMEOUT: Final = 30.0  # seconds


@contextlib.contextmanager
def use_local_runtime(settings: Settings) -> Iterator[None]:
    """Keep the home's embedded Redis and a worker running while the context is entered.

    Any number of processes, and of contexts in each, share one runtime: ``livethread up``'s if it runs, else a
    detached runner, which this starts and which ends with its last user, even a killed one. If the runtime ends while
    it has users, one of them starts another. The last user to leave waits until the runner has ended. Enter and leave
    from any thread; both may block.

    Raises:
        Unavailable: no server is installed, or the processes do not start; the message names the log.
    """
    prepare_directories(settings)
    with runtime_locks.home_lock(settings, "users") as users:
        if not users.take(shared=True, wait_s=START_TIMEOUT):
            raise Unavailable(f"the runner in {run_dir(settings)} is stopping and does not end; see the logs there")
        try:
            _ensure_served(settings)
            with _guarding(settings):
                yield
        finally:
            users.release()
            with contextlib.suppress(FileNotFoundError):  # the home was deleted, and the locks with it
                _await_end_if_last(settings)


@contextlib.contextmanager
def running(settings: Settings, *, workers: int = 2, concurrency: int = 2) -> Iterator[Supervisor]:
    """Run Redis (if embedded) and *workers* workers, named ``worker.1`` and so on, as children of this process.

    Logs go to the home's run folder. The supervisor lists and kills the processes by name.

    Raises:
        Unavailable: a process does not start; the message names its log.
    """
    prepare_directories(settings)
    specs = [redis_spec(settings)] if settings.is_embedded else []
    specs += [worker_spec(settings, f"worker.{number}", concurrency=concurrency) for number in range(1, workers + 1)]
    with RunnerClaim(settings) as claim, Supervisor(specs, LogFiles(run_dir(settings))) as supervisor:
        claim.set_ready()
        yield supervisor


class RunnerClaim:
    """While entered, this process provides the home's runtime, so that users join it and start no runner.

    If a runner already runs, the claim waits in the background until the runner's users have left; both serve
    meanwhile. With LIVETHREAD_REDIS_URL set, the home has no local runtime, and the claim does nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._wanted = settings.is_embedded
        self._lock = runtime_locks.home_lock(settings, "runner")
        self._state = runtime_locks.RunnerState(os.getpid(), "own")
        self._mutex = threading.Lock()
        self._held = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="runner claim", daemon=True)

    def set_ready(self) -> None:
        """Tell users that Redis and a worker serve."""
        with self._mutex:
            self._state = runtime_locks.RunnerState(os.getpid(), "own", ready=True)
            if self._held:
                runtime_locks.publish_state(self._lock, self._state)

    def __enter__(self) -> Self:
        """Claim now if possible, else keep trying in the background."""
        if self._wanted and not self._try():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give up the claim; remaining users start a runner."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._lock.release()

    def _keep_trying(self) -> None:
        while not self._ended.wait(POLL_INTERVAL) and not self._try():
            pass

    def _try(self) -> bool:
        with self._mutex:
            self._held = self._lock.take()
            if self._held:
                runtime_locks.publish_state(self._lock, self._state)
            return self._held


@contextlib.contextmanager
def _guarding(settings: Settings) -> Iterator[None]:
    """While entered, a thread makes sure that the home has a runner: the first may be killed, or `up` may end."""
    ended = threading.Event()

    def guard() -> None:
        interval_s = GUARD_INTERVAL
        while not ended.wait(interval_s):
            interval_s = GUARD_INTERVAL if _mend(settings) else min(2 * interval_s, MAX_GUARD_INTERVAL)

    thread = threading.Thread(target=guard, name="runtime guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _mend(settings: Settings) -> bool:
    """Start a runner if the home has none; return whether one runs."""
    try:
        if runtime_locks.read_state(settings) is None:
            logger.info("starting the local runtime again", extra={"action": "guard_runtime"})
            _start_runner(settings)
    except (Unavailable, OSError) as error:
        logger.warning("starting the local runtime failed: %s", error, extra={"action": "guard_runtime"})
        return False
    return True


def _ensure_served(settings: Settings) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        state = runtime_locks.read_state(settings)
        if state is not None and state.ready and answers(settings):
            return
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"the local runtime does not serve within {START_TIMEOUT:g} s; see the logs in {run_dir(settings)}"
            )
        if state is None:
            _start_runner(settings)
        else:
            time.sleep(POLL_INTERVAL)


def _start_runner(settings: Settings) -> None:
    """Start a runner; return when it serves, or when it has found that another one runs."""
    log = run_dir(settings) / "runner.log"
    with log.open("ab") as stderr:
        try:
            started = subprocess.run(
                # -P: do not import from the working directory.
                [sys.executable, "-P", "-m", "livethread_worker.embedded.runner"],
                env=settings_env(settings),
                cwd=run_dir(settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                timeout=START_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the runner does not start within {START_TIMEOUT:g} s; {explain_log(log)}") from error
    if started.returncode != 0:
        reason = started.stdout.decode(errors="replace").strip() or explain_log(log)
        raise Unavailable(f"the local runtime does not start: {reason}")


def _await_end_if_last(settings: Settings) -> None:
    """Wait until the runner has ended, if it has no users. The wait is bounded, because the runner ends anyway."""
    deadline = time.monotonic() + END_TIMEOUT + settings.drain_max_s
    while time.monotonic() < deadline:
        state = runtime_locks.read_state(settings)
        if state is None or state.kind == "own" or _others_use(settings):
            return
        time.sleep(POLL_INTERVAL)


def _others_use(settings: Settings) -> bool:
    with (
        runtime_locks.home_lock(settings, "exit") as one_at_a_time,
        runtime_locks.home_lock(settings, "users") as users,
    ):
        one_at_a_time.take(wait_s=None)
        # Another user holds it if it can only be shared. If not even that, the runner holds it, and is ending.
        return not users.take() and users.take(shared=True)
