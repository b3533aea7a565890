"""The detached process that runs one home's Redis and worker while other processes use them.

``python -m livethread_worker.embedded.runner`` returns 0 when the runtime serves, by this runner or by an earlier one;
otherwise it prints the reason and returns 1. The runner itself is forked off. It holds ``runner.lock``, and ends when
the kernel grants it ``users.lock`` exclusively: the last user has left or was killed. It keeps both locks until it has
ended, so that a process that comes meanwhile waits and starts a fresh runner.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from livethread.errors import Unavailable
from livethread_config import Settings
from livethread_worker.embedded import output, processes, redis_server, runtime_locks
from livethread_worker.embedded.supervisor import Supervisor

#: Longer than a process that only reads the state holds ``runner.lock``.
CLAIM_WAIT: Final = 0.3  # seconds
#: The report when this runner, or another one, serves.
FINE: Final = b"fine"


class _Terminated(BaseException):
    """SIGTERM arrived; the runner stops in order."""


def main() -> int:
    """Fork the runner off, wait for its report, and return the exit code."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _become_runner(writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        report = pipe.read()
    if report != FINE:
        print(report.decode(errors="replace"))  # noqa: T201 - empty after a crash: stderr, its log, says why
        return 1
    return 0


def _become_runner(writer: int) -> NoReturn:
    """Serve. From here on stdout goes to the log, because the reader of stdout waits for its end."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGTERM, _raise_terminated)

    def report(message: bytes) -> None:
        nonlocal writer
        if writer >= 0:
            os.write(writer, message)
            os.close(writer)
            writer = -1

    try:
        _serve(Settings(), report)
    except _Terminated:
        sys.exit(0)
    except Unavailable as error:
        report(str(error).encode())
        sys.exit(1)
    sys.exit(0)


def _serve(settings: Settings, report: Callable[[bytes], None]) -> None:
    runner, users = runtime_locks.home_lock(settings, "runner"), runtime_locks.home_lock(settings, "users")
    if not runner.take(wait_s=CLAIM_WAIT):
        report(FINE)
        return
    runtime_locks.publish_state(runner, runtime_locks.RunnerState(os.getpid(), "shared"))
    specs = [processes.redis_spec(settings), processes.worker_spec(settings, "runtime")]
    with Supervisor(specs, output.LogFiles(redis_server.run_dir(settings))):
        runtime_locks.publish_state(runner, runtime_locks.RunnerState(os.getpid(), "shared", ready=True))
        report(FINE)
        users.take(wait_s=None)


def _raise_terminated(*_: object) -> NoReturn:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
