"""Four homes as four hosts, behind one Redis with a replica, and what an operator does to them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from pytest_celery import CeleryTestWorker  # type: ignore[import-untyped]  # it has no types
from tests.acceptance.faults.cluster import Cluster
from tests.acceptance.faults.nemesis import FAULTS, pid_of
from tests.acceptance.faults.workers import faulty_worker
from tests.nodes.processes import RedisServer
from tests.nodes.waiting import wait_until

from livethread import ListThreadsParams, Settings, ThreadStoreError
from livethread.composition import open_reader
from livethread_config import names
from livethread_config.deployment import Deployment
from livethread_worker.store.files.home import Home
from livethread_worker.store.files.identity import identify, recall_record

#: Homes at the beginning, each with one shard and two workers.
HOMES = 4

#: How long `livethread shards move` may refuse because a worker of the former home was seen.
UNSEEN = 60.0  # seconds


@dataclass(slots=True)
class Host:
    """A home and its workers. All hosts are this machine, but they share no file."""

    settings: Settings
    workers: list[CeleryTestWorker]


@dataclass(slots=True)
class Fleet(Cluster):
    """Several hosts. Faults hit any worker, and the home of the host to which `turn_to_any_host` turned."""

    hosts: list[Host] = field(default_factory=list)
    replica: RedisServer | None = None
    app: Celery | None = None
    _known: Deployment | None = None

    # -- what faults hit -----------------------------------------------------------------------------------

    def turn_to_any_host(self) -> None:
        """Have the next fault hit the home of any host."""
        self.settings = self.random.choice(self.hosts).settings

    @property
    def deployment(self) -> Deployment:
        """The deployment record; if Redis has lost it and no process has restored it yet, the last one."""
        record: Any = self.redis.hgetall(names.deployment_key(self.settings.key_prefix))
        if b"epochs" in record:
            self._known = Deployment.parse({name.decode(): value.decode() for name, value in record.items()})
        assert self._known is not None
        return self._known

    @property
    def shards(self) -> list[names.ShardKeys]:
        return [names.ShardKeys(self.settings.key_prefix, shard) for shard in self.deployment.shards]

    def keys_of(self, thread_id: str) -> names.ShardKeys:
        return names.ShardKeys(self.settings.key_prefix, self.deployment.shard_of(thread_id))

    @property
    def homes(self) -> list[Home]:
        return [Home(host.settings.home) for host in self.hosts]

    def client(self) -> Settings:
        """Return the settings of a client without a home, or of one on any host, in turn."""
        return self.nowhere if self._started % 2 else self.random.choice(self.hosts).settings

    def readers(self) -> list[Settings]:
        """Return the settings of one watcher, which asks the workers."""
        return [self.nowhere]

    @property
    def nowhere(self) -> Settings:
        """Settings of a client without a home."""
        return self.hosts[0].settings.model_copy(update={"home": self.folder / "nowhere", "reads": "celery"})

    # -- what an operator does -----------------------------------------------------------------------------

    def assign(self) -> None:
        """Have each home serve one shard, before any worker runs."""
        for shard, host in enumerate(self.hosts):
            self.settings = host.settings
            self.livethread("shards", "move", str(shard))

    def add_shards(self, count: int) -> None:
        """Add shards, and wait until every host knows them: Redis may lose its data next."""
        self.livethread("shards", "add", str(count))
        shards = self.deployment.shards
        self._wait_until_known(lambda known: known.shards == shards)

    def served_by(self, host: Host) -> list[int]:
        """Return the shards that the host's home serves."""
        mine = identify(Home(host.settings.home), host.settings.key_prefix)
        return [shard for shard, home in self.deployment.home_of.items() if home == mine]

    def has_threads_in(self, shards: range) -> bool:
        """Whether each of *shards* has a thread that its home stores."""
        deployment = self.deployment
        found = {deployment.shard_of(thread_id) for home in self.homes for thread_id, _ in home.rollouts()}
        return found >= set(shards)

    def move_shard(self) -> tuple[int, Path]:
        """Move one shard of a home with several to a copy of that home, on a new host; return both.

        Sessions write meanwhile. One of the home's two workers moves along.
        """
        host = next(host for host in self.hosts if len(self.served_by(host)) > 1)
        shard = self.served_by(host)[0]
        for worker in host.workers:
            os.kill(pid_of(worker), signal.SIGTERM)
        for worker in host.workers:
            wait_until(lambda: worker.container.status == "exited", "the worker's end", self.patience_s)  # noqa: B023 - awaited at once
        settings = host.settings.model_copy(update={"home": self.folder / f"moved-{shard}"})
        shutil.copytree(host.settings.home, settings.home, symlinks=True)
        self.settings = settings
        wait_until(lambda: self._is_moved(shard), f"leave to move shard {shard}", UNSEEN)
        leaving = host.workers.pop()
        self.workers.remove(leaving)
        node = faulty_worker(settings, self.folder, f"worker-moved-{shard}", "--concurrency", "1")
        node.start()
        new = Host(settings, [CeleryTestWorker(node, self.app)])
        for worker in host.workers:
            worker.restart()
        self.hosts.append(new)
        self.workers += new.workers
        home = identify(Home(settings.home), settings.key_prefix)
        self._wait_until_known(lambda known: known.home_of.get(shard) == home)
        return shard, settings.home

    def _is_moved(self, shard: int) -> bool:
        try:
            self.livethread("shards", "move", str(shard))
        except subprocess.CalledProcessError as error:
            if "served shard" not in error.stderr:  # a moment ago
                raise
            return False
        return True

    def _wait_until_known(self, is_known: Callable[[Deployment], bool]) -> None:
        def is_known_everywhere() -> bool:
            known = [recall_record(home) for home in self.homes]
            return all(each is not None and is_known(each) for each in known)

        wait_until(is_known_everywhere, "every home's knowledge of the deployment", self.patience_s)

    # -- listings ------------------------------------------------------------------------------------------

    def listed(self, client: Settings, *, archived: bool = False) -> list[str]:
        """Page through the threads as *client* sees them, and return their ids as often as they come."""
        found = wait_until(
            lambda: asyncio.run(_listed(client, archived)), "an answer from all homes", self.patience_s
        )
        return [thread_id for page in found for thread_id in page]

    def stored(self) -> list[str]:
        """Return the threads whose rollout lies in the home that serves their shard."""
        deployment, stored = self.deployment, set()
        for host in self.hosts:
            home = Home(host.settings.home)
            mine = identify(home, host.settings.key_prefix)
            stored |= {id_ for id_, _ in home.rollouts() if deployment.home_of[deployment.shard_of(id_)] == mine}
        return sorted(stored)


async def _listed(client: Settings, archived: bool) -> list[list[str]]:
    """Return the pages; none if a home does not answer, which the last fault may have stopped."""
    params = ListThreadsParams(page_size=20, include_without_preview=True, archived=archived)
    pages: list[list[str]] = []
    with suppress(ThreadStoreError):
        async with open_reader(client) as reader:
            while True:
                page = await reader.list_threads(params)
                pages.append([thread.thread_id for thread in page.items])
                if page.next_cursor is None:
                    return pages
                params = params.model_copy(update={"cursor": page.next_cursor})
    return []


# -- faults of Redis and its replica -----------------------------------------------------------------------


def failed_over_after_a_death(cluster: Cluster) -> None:
    """``kill -9`` of the master: the replica takes over behind the same address, without what it had not received."""
    old, new = _roles(cluster)
    old.kill()
    _promote(cluster, old, new)
    old.start()
    old.replicate(new)


def failed_over_with_open_connections(cluster: Cluster) -> None:
    """The replica takes over; the old master becomes a replica, and its connections stay open."""
    old, new = _roles(cluster)
    _promote(cluster, old, new)
    old.replicate(new)


def _roles(cluster: Cluster) -> tuple[RedisServer, RedisServer]:
    assert isinstance(cluster, Fleet)
    assert cluster.replica is not None
    old, new = cluster.redis_server, cluster.replica
    wait_until(lambda: _is_replicating(new), "a replica that is up to date", cluster.patience_s)
    cluster.redis_lost_data = True
    return old, new


def _is_replicating(server: RedisServer) -> bool:
    return server.client.info("replication").get("master_link_status") == "up"


def _promote(cluster: Cluster, old: RedisServer, new: RedisServer) -> None:
    assert isinstance(cluster, Fleet)
    new.client.replicaof("NO", "ONE")
    cluster.redis_server, cluster.replica = new, old
    cluster.proxy.lead_to(new)


#: All faults of a single home, and these.
FLEET_FAULTS = FAULTS | {
    fault.__name__: fault for fault in (failed_over_after_a_death, failed_over_with_open_connections)
}
