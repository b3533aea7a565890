"""What a deployment occupies: Redis, the home, and the processes; and what is left once all lifetimes are over."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.deployments import Deployment
from livethread_config import names
from livethread_worker.embedded.redis_server import data_dir
from livethread_worker.store.files.home import Home

#: Keys whose lifetime is ended by one call.
_AT_ONCE: Final = 1_000


def occupied(deployment: Deployment) -> dict[str, int]:
    """Return what *deployment* occupies, by name: counts, or bytes if the name says so."""
    redis: Any = deployment.redis
    keys = redis.info("keyspace").get("db0", {"keys": 0, "expires": 0})
    return {
        "Redis keys": keys["keys"],
        "Redis keys without a lifetime": keys["keys"] - keys["expires"],
        "Redis, bytes": redis.info("memory")["used_memory"],
        "its log on disk, bytes": sum(path.stat().st_size for path in data_dir(deployment.settings).rglob("*")),
        **_files(Home(deployment.settings.home)),
        **processes(deployment),
    }


def end_lifetimes(deployment: Deployment) -> None:
    """Do to Redis what days without use do: end the lifetime of every key that has one, and let a sweep forget deletions.

    All tasks must be applied.
    """
    redis: Any = deployment.redis
    deleted = names.ShardKeys(deployment.settings.key_prefix, 0).deleted
    if threads := redis.zrange(deleted, 0, -1):
        redis.zadd(deleted, dict.fromkeys(threads, 0))
    while redis.exists(deleted):
        time.sleep(0.1)
    keys = list(redis.scan_iter(count=_AT_ONCE))
    for first in range(0, len(keys), _AT_ONCE):
        some = keys[first : first + _AT_ONCE]
        with redis.pipeline(transaction=False) as calls:
            for key in some:
                calls.pttl(key)
            lifetimes = calls.execute()
        with redis.pipeline(transaction=False) as calls:
            for key, lifetime in zip(some, lifetimes, strict=True):
                if lifetime > 0:
                    calls.pexpire(key, 1)
            calls.execute()
    time.sleep(0.01)
    for first in range(0, len(keys), _AT_ONCE):
        redis.exists(*keys[first : first + _AT_ONCE])  # removes those whose lifetime is over


def resident_sizes() -> list[tuple[int, int, int]]:
    """Return the pid, parent and resident bytes of every process."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,rss="],  # noqa: S607 - its path differs between systems
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (map(int, line.split()) for line in listed.stdout.splitlines())
    return [(pid, parent, kilobytes * 1024) for pid, parent, kilobytes in rows]


def _files(home: Home) -> dict[str, int]:
    log = home.index.with_name(f"{home.index.name}-wal")
    files = [entry for folder, _, names in os.walk(home.root) for name in names if (entry := Path(folder, name))]
    rollouts = sum(1 for _ in home.rollouts())
    locks, originals = (sum(1 for _ in folder.iterdir()) for folder in (home.locks, home.originals))
    return {
        "the index, bytes": home.index.stat().st_size,
        "the index's log, bytes": log.stat().st_size if log.exists() else 0,
        "rollouts": rollouts,
        "lock files": locks,
        "links to rollouts": originals,
        "other files": len(files) - rollouts - locks - originals,
    }


def processes(deployment: Deployment) -> dict[str, int]:
    """Return what the workers and the client, which is this process, occupy."""
    mains = {pid for name, pid in deployment.supervisor.pids().items() if name.startswith("worker")}
    sizes = resident_sizes()
    workers = {pid: size for pid, parent, size in sizes if pid in mains or parent in mains}
    client = {pid: size for pid, _, size in sizes if pid == os.getpid()}
    found: dict[str, int] = {}
    for name, pids in (("workers", workers), ("client", client)):
        found[f"{name}, bytes"] = sum(pids.values())
        if Path("/proc/self/fd").exists():
            found[f"{name}, descriptors"] = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in pids)
    return found
