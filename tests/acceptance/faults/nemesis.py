"""The faults: each hits a working cluster, and is over when its function returns."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress

import psutil  # type: ignore[import-untyped]  # it comes with pytest-celery
import pytest
from pytest_celery import CeleryTestWorker  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.faults.cluster import Cluster
from tests.nodes.items import history, message, texts
from tests.nodes.stores import opened
from tests.nodes.waiting import wait_until

from livethread import CreateThreadParams, LiveThread, ThreadParked, ThreadStore
from livethread_worker.store.files.locks import file_lock
from livethread_worker.store.index.database import BUSY_TIMEOUT

#: How far the clock is set back.
HOUR_MS = 3_600_000


def worker_killed(cluster: Cluster) -> None:
    """``kill -9`` of a worker with its pool, then a restart."""
    worker = _any_worker(cluster)
    worker.kill()
    cluster.go_on()
    worker.restart()


def every_worker_killed(cluster: Cluster) -> None:
    """``kill -9`` of all workers; nothing is applied for a while."""
    for worker in cluster.workers:
        worker.kill()
    for worker in cluster.workers:
        worker.restart()


def pool_child_killed(cluster: Cluster) -> None:
    """``kill -9`` of the process in which a drain runs; its worker starts another."""
    children = [pid for worker in cluster.workers for pid in pool_of(worker)]
    victim = cluster.random.choice(children)
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)


def client_killed(cluster: Cluster) -> None:
    """``kill -9`` of a session in the middle of its appends; another one starts."""
    victim = cluster.random.choice([child for child in cluster.sessions if child.is_running])
    victim.kill()
    cluster.start_session()


def worker_stopped(cluster: Cluster) -> None:
    """SIGSTOP of a worker until its claims have expired, then SIGCONT: other workers may have done its work.

    A worker that is stopped in the middle of a batch keeps its threads' locks, and perhaps the lock of the index, which
    stops the other workers, too.
    """
    group = os.getpgid(pid_of(_any_worker(cluster)))
    os.killpg(group, signal.SIGSTOP)
    time.sleep(cluster.settings.claim_ttl_s * 2)  # until its claims have expired
    os.killpg(group, signal.SIGCONT)


def _killed_at(point: str) -> Callable[[Cluster], None]:
    def fault(cluster: Cluster) -> None:
        reached = cluster.arm(point)
        wait_until(reached.exists, f"a worker at {point}", cluster.patience_s)

    fault.__doc__ = f"A worker's process dies at the point {point}."
    return fault


def worker_shut_down(cluster: Cluster) -> None:
    """Warm shutdown: the worker finishes its drain first."""
    worker = _any_worker(cluster)
    os.kill(pid_of(worker), signal.SIGTERM)
    _wait_for_end(worker)
    cluster.go_on()
    worker.restart()


def worker_shut_down_cold(cluster: Cluster) -> None:
    """Cold shutdown: the worker abandons its drain.

    Celery cancels the tasks in its signal handler. There it may wait for ever for a lock that the interrupted code holds,
    such as its event dispatcher's. Then the worker is killed, as a service manager does.
    """
    worker = _any_worker(cluster)
    os.kill(pid_of(worker), signal.SIGQUIT)
    try:
        _wait_for_end(worker)
    except AssertionError:
        os.kill(pid_of(worker), signal.SIGUSR2)
        wait_until(lambda: "in on_cold_shutdown" in worker.logs(), "the traceback of a worker that waits in Celery")
        worker.kill()
    cluster.go_on()
    worker.restart()


def _wait_for_end(worker: CeleryTestWorker) -> None:
    wait_until(lambda: worker.container.status == "exited", "the worker's end", 40.0)


def redis_killed(cluster: Cluster) -> None:
    """``kill -9`` of Redis, then a restart from its append-only file, which may lack the last second."""
    cluster.redis_lost_data = True
    cluster.redis_server.kill()
    time.sleep(cluster.random.random())
    cluster.redis_server.start()


def redis_flushed(cluster: Cluster) -> None:
    """Redis loses everything: the clients send again every task that is not acknowledged."""
    cluster.redis_lost_data = True
    cluster.redis.flushall()


def redis_paused(cluster: Cluster) -> None:
    """Redis does not answer for longer than its clients' timeout, then resumes."""
    cluster.redis_server.pause()
    time.sleep(6.0)
    cluster.redis_server.go_on()


def connections_cut(cluster: Cluster) -> None:
    """All connections are cut again and again, in the middle of calls and of replies."""
    for _ in range(5):
        cluster.proxy.cut_reply(cluster.random.randrange(1, 40), b"EVALSHA")
        time.sleep(0.1)
        cluster.proxy.cut_all()
        cluster.go_on(10)


def answers_lost(cluster: Cluster) -> None:
    """Redis executes calls whose replies never arrive."""
    for _ in range(10):
        swallowed = cluster.proxy.swallow_reply(b"EVALSHA")
        wait_until(swallowed.is_set, "a call whose reply is lost", cluster.patience_s)


def redis_slow(cluster: Cluster) -> None:
    """Each reply from Redis is delayed."""
    cluster.proxy.delay_s = 0.05
    try:
        cluster.go_on()
    finally:
        cluster.proxy.delay_s = 0.0


def doorbells_lost(cluster: Cluster) -> None:
    """For a while, every waiting doorbell is removed."""
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        cluster.redis.delete(*cluster.queues)
        time.sleep(0.005)


def doorbells_doubled(cluster: Cluster) -> None:
    """Each doorbell arrives three times."""
    for _ in range(5):
        found = cluster.redis.blpop(cluster.queues, timeout=0.5)
        if found is not None:
            cluster.redis.rpush(found[0], found[1], found[1], found[1])


def disk_full(cluster: Cluster) -> None:
    """Workers cannot make rollouts or index grow, as on a full disk; then there is space again."""
    _limit_files(cluster, 0)
    try:
        time.sleep(0.5)  # until then, a write that the limit interrupted may be taken back
        _limit_files(cluster, 0)  # also for a process that was just starting
        before = cluster.line_count()
        time.sleep(1.5)
        assert cluster.line_count() == before
    finally:
        _limit_files(cluster, psutil.RLIM_INFINITY)


def _limit_files(cluster: Cluster, size: int) -> None:
    for worker in cluster.workers:
        # Not for the main process: it writes only its log, and fails if it cannot.
        for pid in pool_of(worker):
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


def index_locked(cluster: Cluster) -> None:
    """Another process locks the index for longer than the workers wait."""
    with closing(sqlite3.connect(cluster.home.index, isolation_level=None, timeout=10.0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(BUSY_TIMEOUT + 1.0)
        connection.execute("ROLLBACK")


def index_deleted(cluster: Cluster) -> None:
    """The index is deleted under the running workers, which rebuild it."""
    for path in cluster.home.index.parent.glob(f"{cluster.home.index.name}*"):
        if path.suffix != ".lock":
            path.unlink(missing_ok=True)


def clock_set_back(cluster: Cluster) -> None:
    """Redis' clock is set back an hour: existing positions, claims and delays are in the future."""
    ahead = int(time.time() * 1000) + HOUR_MS
    # Each thread once: one that is archived meanwhile is listed twice, and a second reset would repeat its positions.
    for thread_id in {thread_id for thread_id, _ in cluster.home.rollouts()}:
        keys = cluster.keys_of(thread_id)
        cluster.redis.hset(keys.writers(thread_id), "tail", f"{ahead}-0")
        for zset in (keys.ready, keys.claims):
            cluster.redis.zadd(zset, {thread_id: ahead}, xx=True)


def rollout_appended_to(cluster: Cluster) -> None:
    """Another program appends to a thread under its lock, dies in the middle of a line, and later completes it."""
    thread_id, _ = cluster.random.choice(list(cluster.home.rollouts()))
    line = '{"timestamp":"2026-11-23T00:00:00.000Z","type":"event_msg","payload":{"type":"foreign"}}\n'
    for text, end in ((line, ""), (line[:40], ""), (line[40:], line[:40])):
        with file_lock(cluster.home.thread_lock(thread_id), wait_s=60.0):
            path = cluster.home.require_rollout(thread_id)
            if path.read_text().endswith(end):  # otherwise a worker has moved the half line to the quarantine
                with path.open("a") as file:
                    file.write(text)
        cluster.go_on(20)


def rollout_truncated(cluster: Cluster) -> None:
    """Another program truncates a rollout in the middle of a line: the whole lines stay, and the thread continues."""

    async def write() -> list[str]:
        async with opened(cluster.settings) as store:
            thread = await _written(store, range(20))
            path = await thread.rollout_path()
            assert path is not None
            lines = path.read_bytes().splitlines(keepends=True)
            os.truncate(path, sum(map(len, lines[:-2])) + 10)
            await thread.append_items([message("20")])
            await thread.shutdown(60.0)
            return texts(await history(store, thread.thread_id))

    assert asyncio.run(write()) == [str(n) for n in (*range(18), 20)]


def rollout_moved_away(cluster: Cluster) -> None:
    """Another program moves a rollout away: its thread is parked until the file is back and a user retries."""

    async def write() -> list[str]:
        async with opened(cluster.settings) as store:
            thread = await _written(store, range(3))
            path = await thread.rollout_path()
            assert path is not None
            path.rename(path.with_suffix(".away"))
            await thread.append_items([message("3")])
            with pytest.raises(ThreadParked):
                await thread.flush(60.0)
            await thread.append_items([message("4")])
            path.with_suffix(".away").rename(path)
            await asyncio.to_thread(cluster.livethread, "parked", "retry", thread.thread_id)
            await thread.shutdown(60.0)
            return texts(await history(store, thread.thread_id))

    assert asyncio.run(write()) == [str(n) for n in range(5)]


async def _written(store: ThreadStore, numbers: Iterable[int]) -> LiveThread:
    """Return a new thread with an item for each of *numbers*, flushed."""
    thread = await LiveThread.create(store, CreateThreadParams())
    for n in numbers:
        await thread.append_items([message(str(n))])
    await thread.flush(60.0)
    return thread


#: All faults by name. Each leaves a working cluster.
FAULTS: dict[str, Callable[[Cluster], None]] = {
    fault.__name__: fault
    for fault in (
        worker_killed,
        every_worker_killed,
        pool_child_killed,
        client_killed,
        worker_stopped,
        worker_shut_down,
        worker_shut_down_cold,
        redis_killed,
        redis_flushed,
        redis_paused,
        redis_slow,
        connections_cut,
        answers_lost,
        doorbells_lost,
        doorbells_doubled,
        index_locked,
        index_deleted,
        clock_set_back,
        rollout_appended_to,
        rollout_truncated,
        rollout_moved_away,
    )
}
FAULTS |= {
    f"killed_{point}": _killed_at(point)
    for point in (
        "after_claim",
        "half_write",
        "after_write",
        "after_sync",
        "after_commit",
        "before_settle",
        "after_settle",
    )
}
if sys.platform == "linux":  # only Linux lets one process limit another
    FAULTS["disk_full"] = disk_full


def _any_worker(cluster: Cluster) -> CeleryTestWorker:
    return cluster.random.choice(cluster.workers)


def pid_of(worker: CeleryTestWorker) -> int:
    """Return the main process of *worker*."""
    pid: int = worker.container._container.process.pid
    return pid


def pool_of(worker: CeleryTestWorker) -> list[int]:
    """Return the processes of the pool of *worker*."""
    return [child.pid for child in psutil.Process(pid_of(worker)).children(recursive=True)]
