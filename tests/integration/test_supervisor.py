"""The supervisor, with shells as children, so that each test takes a fraction of a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.nodes.waiting import DEADLINE, wait_until

from livethread.errors import Unavailable
from livethread_worker.embedded import supervisor as module
from livethread_worker.embedded.output import Lines, LogFiles
from livethread_worker.embedded.supervisor import ProcessSpec, Supervisor, restart_delay_s

SLEEP = "exec sleep 60"
STUBBORN = "trap '' TERM QUIT; echo ready; while :; do sleep 0.02; done"


def spec(name: str, script: str, *, grace_s: float = 10.0, ready: Callable[[int], bool] | None = None) -> ProcessSpec:
    return ProcessSpec(name=name, command=["sh", "-c", script], env=dict(os.environ), grace_s=grace_s, ready=ready)


def is_alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


class Record:
    """Collects the output of `Lines`."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def names_of(self, prefix: str) -> list[str]:
        return [name for name, line in self.lines if line.startswith(prefix)]


def test_all_output_of_a_child_is_passed_on_with_its_name() -> None:
    record = Record()

    with Supervisor(
        [spec("a", "trap 'echo last; exit' TERM; echo one; while :; do sleep 0.02; done")], Lines(record)
    ):
        wait_until(lambda: ("a", "one") in record.lines)

    assert ("a", "last") in record.lines


def test_a_crashed_child_is_restarted() -> None:
    with Supervisor([spec("a", SLEEP)], Lines(Record())) as supervisor:
        killed = supervisor.kill("a")

        wait_until(lambda: supervisor.pids().get("a", killed) != killed)

    assert supervisor.pids() == {}


def test_the_restart_delay_grows_from_half_a_second_to_thirty() -> None:
    assert [restart_delay_s(crashes) for crashes in (1, 2, 3, 6, 7, 1000)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0]


def test_children_start_in_order_and_stop_in_reverse() -> None:
    record = Record()

    with Supervisor([spec(name, SLEEP) for name in ("redis", "beat", "flower")], Lines(record)):
        pass

    assert record.names_of("started") == ["redis", "beat", "flower"]
    assert record.names_of("ended") == ["flower", "beat", "redis"]


def test_the_next_child_starts_once_the_probe_succeeds(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    first = spec("first", f"sleep 0.1; touch {flag}; {SLEEP}", ready=lambda _pid: flag.exists())
    seen = tmp_path / "seen"

    with Supervisor([first, spec("second", f"ls {flag} > {seen}; {SLEEP}")], Lines(Record())):
        wait_until(lambda: seen.exists() and seen.read_text())

    assert seen.read_text().strip() == str(flag)


def test_only_the_main_process_gets_sigterm_and_its_group_is_killed_afterwards(tmp_path: Path) -> None:
    """Celery's main process lets its pool processes finish, so they must not get the signal."""
    terminated, finished, left = tmp_path / "terminated", tmp_path / "finished", tmp_path / "left"
    helper = f"sh -c 'trap \"touch {terminated}; exit\" TERM; echo $$ > {left}; while :; do sleep 0.02; done'"
    main = f"{helper} & trap 'sleep 0.1; touch {finished}; exit' TERM; while :; do sleep 0.02; done"

    with Supervisor([spec("a", main)], Lines(Record())):
        wait_until(lambda: left.exists() and left.read_text())

    assert finished.exists()
    assert not terminated.exists()
    wait_until(lambda: not is_alive(int(left.read_text())))


def test_a_child_that_ignores_every_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIT_GRACE", 0.05)
    record = Record()

    with Supervisor([spec("a", STUBBORN, grace_s=0.05)], Lines(record)):
        wait_until(lambda: ("a", "ready") in record.lines)

    assert [line for _, line in record.lines if line.startswith("gets")] == [
        "gets SIGTERM",
        "gets SIGQUIT",
        "gets SIGKILL",
    ]


def test_a_second_request_to_stop_kills_at_once() -> None:
    record = Record()
    supervisor = Supervisor([spec("a", STUBBORN, grace_s=3600)], Lines(record))
    assert supervisor.start()
    wait_until(lambda: ("a", "ready") in record.lines)

    supervisor.request_stop()
    wait_until(lambda: "a" in record.names_of("gets SIGTERM"))
    supervisor.request_stop()
    supervisor.wait()

    assert record.names_of("gets") == ["a", "a"]
    assert supervisor.pids() == {}


def test_a_child_that_ends_before_it_is_ready_fails_the_start(tmp_path: Path) -> None:
    started: list[int] = []

    def note_pid(pid: int) -> bool:
        started.append(pid)
        return True

    specs = [spec("redis", SLEEP, ready=note_pid), spec("worker", "echo failed; exit 3", ready=lambda _pid: False)]

    with pytest.raises(Unavailable) as failure:
        Supervisor(specs, LogFiles(tmp_path)).start()

    assert "worker ended with exit code 3 before it was ready" in str(failure.value)
    assert f"see {tmp_path / 'worker.log'}" in str(failure.value)
    assert "failed" in str(failure.value)
    assert [is_alive(pid) for pid in started] == [False]


def test_a_missing_command_fails_the_start(tmp_path: Path) -> None:
    missing = ProcessSpec(name="a", command=["/no/such/program"], env={}, ready=lambda _pid: False)

    with pytest.raises(Unavailable, match="cannot run /no/such/program"):
        Supervisor([missing], LogFiles(tmp_path)).start()


def test_children_with_the_same_lock_run_one_after_the_other(tmp_path: Path) -> None:
    record = Record()
    specs = [
        ProcessSpec(
            name=name, command=["sh", "-c", f"echo runs; {SLEEP}"], env=dict(os.environ), lock=tmp_path / "lock"
        )
        for name in ("a", "b")
    ]

    with Supervisor(specs, Lines(record)) as supervisor:
        wait_until(lambda: record.names_of("another process holds") and record.names_of("runs"))
        first = record.names_of("runs")
        supervisor.kill(first[0])
        wait_until(lambda: len(record.names_of("runs")) > 1)

    assert sorted(record.names_of("runs")[:2]) == ["a", "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent's life")
@pytest.mark.parametrize(
    "signals", [[signal.SIGKILL], [signal.SIGINT, signal.SIGINT]], ids=["killed", "interrupted twice"]
)
def test_no_child_outlives_its_supervisor(signals: list[signal.Signals], tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import signal, sys
        from pathlib import Path
        from livethread_worker.embedded.output import LogFiles
        from livethread_worker.embedded.supervisor import ProcessSpec, Supervisor
        spec = ProcessSpec(name="a", command=["sh", "-c", sys.argv[2]], env={}, grace_s=3600)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
        with Supervisor([spec], LogFiles(Path(sys.argv[1]))) as supervisor:
            print(supervisor.pids()["a"], flush=True)
            signal.pause()
    """)
    command = [sys.executable, "-c", script, str(tmp_path), STUBBORN]
    log = tmp_path / "a.log"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_until(lambda: "ready" in log.read_text())

        try:
            process.send_signal(signals[0])
            for signum in signals[1:]:
                wait_until(lambda: "gets SIGTERM" in log.read_text())
                process.send_signal(signum)
            process.wait(DEADLINE)
        finally:
            process.kill()
    wait_until(lambda: not is_alive(pid))
