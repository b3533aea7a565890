"""Redis answers commands with errors: every process waits and carries on, and what was accepted is applied in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.nodes.items import append, flush, history, message, new_thread, texts
from tests.nodes.processes import READY, ChildProcess, RedisServer, free_port, worker_process
from tests.nodes.refusing_proxy import RefusingProxy
from tests.nodes.stores import opened
from tests.nodes.waiting import DEADLINE, eventually, wait_until

from livethread import (
    Internal,
    QueuedThreadStore,
    ReadThreadParams,
    ResourceExhausted,
    Settings,
    ThreadStoreError,
    Unavailable,
)
from livethread.composition import open_reader
from livethread_config import names
from livethread_worker.app import create_app
from livethread_worker.drain.task_events import TaskEvents
from livethread_worker.embedded.deployment_files import deployment_root
from livethread_worker.embedded.processes import settings_env

#: Error replies as Redis words them.
REPLIES: Final = {
    reply.partition(" ")[0]: reply
    for reply in (
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOPERM User app has no permissions to run the command",
        "LOADING Redis is loading the dataset in memory",
        "ERR a reply that this release does not know",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "NOREPLICAS Not enough good replicas to write.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOAUTH Authentication required.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    )
}

#: `make test` has all commands refused at once with these, `make test-faults` each command alone with each reply.
SELECTED: Final = tuple(REPLIES)[:6]

#: An append may end with these instead of being accepted; otherwise it stays queued.
REFUSALS: Final[dict[str, type[ThreadStoreError]]] = {"OOM": ResourceExhausted, "ERR": Internal}

#: How long to wait for a party to send a command by itself before its connections are cut.
PATIENCE: Final = 0.5  # seconds

ALONE: Final = bool(os.environ.get("LIVETHREAD_TEST_MINUTES"))


@dataclass
class Deployment:
    """Processes that talk to one Redis, each through a proxy of its own; the client is this process."""

    server: RedisServer
    settings: Settings
    proxies: dict[str, RefusingProxy]
    processes: dict[str, ChildProcess]
    flower_port: int

    def pids(self) -> dict[str, int | None]:
        return {name: child.pid if child.is_running else None for name, child in self.processes.items()}

    def events_in_flower(self) -> float:
        """Return how many events Flower has received."""
        url = f"http://127.0.0.1:{self.flower_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines: list[str] = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("flower_events_total{"))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("refused")
    with ExitStack() as stack:
        server = RedisServer().start()
        stack.callback(server.close)
        names = ("client", "worker", "flower")
        proxies = {name: stack.enter_context(RefusingProxy(server, name)) for name in names}
        settings = {
            name: Settings(
                redis_url=proxy.url,
                home=folder / "home",
                reads="local",
                claim_ttl_s=1.0,
                drain_max_s=1.0,
                sweep_interval_s=0.2,
                enqueue_timeout_s=0.3,
            )
            for name, proxy in proxies.items()
        }
        with socket.create_server(("127.0.0.1", 0)) as probe:
            flower_port = probe.getsockname()[1]
        celery = (sys.executable, "-P", "-m", "celery", "--app", "livethread_worker.entrypoint")
        commands = {
            "flower": (*celery, "flower", f"--conf={deployment_root() / 'config' / 'flowerconfig.py'}"),
        }
        processes = {"worker": worker_process(settings["worker"], folder, "worker")}
        for name, command in commands.items():
            env = settings_env(settings[name]) | {"PORT": str(flower_port)}
            processes[name] = ChildProcess(command, env, folder, name)
        for child in processes.values():
            child.start()
            stack.callback(child.kill)
        processes["worker"].wait_for_log(READY)
        wait_until(lambda: proxies["flower"].sent["PSUBSCRIBE"], "Flower's subscription")
        yield Deployment(server, settings["client"], proxies, processes, flower_port)


class Conversation:
    """A thread, and the texts of the items that it must have in the end."""

    def __init__(self, store: QueuedThreadStore, thread_id: str, code: str) -> None:
        self._store = store
        self._thread_id = thread_id
        self._refusal = REFUSALS.get(code, Unavailable)
        self._count = 0
        self.expected: list[str] = []

    async def say(self) -> None:
        """Append; the item counts unless the append was refused."""
        text, self._count = str(self._count), self._count + 1
        try:
            await append(self._store, self._thread_id, message(text))
        except self._refusal as error:
            if not isinstance(error, Unavailable) or not error.is_queued:
                return
        except Unavailable as error:
            if not error.is_queued:
                raise
        self.expected.append(text)

    async def end(self) -> list[str]:
        """Append once more, wait until all is applied, and return the texts that are stored."""
        await self.say()
        return await self.applied()

    async def applied(self) -> list[str]:
        """Wait until all is applied, and return the texts that are stored."""
        await flush(self._store, self._thread_id)
        return texts(await history(self._store, self._thread_id))


async def stored_thread(settings: Settings) -> str:
    """Return a thread that a worker has stored."""
    async with opened(settings) as store:
        thread_id = await new_thread(store)
        await append(store, thread_id, message("Where are you?"))
        await flush(store, thread_id)
    return thread_id


async def refuse(
    deployment: Deployment, code: str, commands: dict[str, set[str]], deadline: float = 2 * PATIENCE
) -> None:
    """Refuse *commands* of the parties until each has met a refusal, or has sent none by *deadline*."""
    pids = deployment.pids()
    async with opened(deployment.settings) as store:
        conversation = Conversation(store, await new_thread(store), code)
        await conversation.say()
        deployment.server.client.script_flush()
        with ExitStack() as refusals:
            for party, names in commands.items():
                refusals.enter_context(deployment.proxies[party].refusing(REPLIES[code], names))
            for party in commands:
                await meet_a_refusal(deployment.proxies[party], conversation, deadline)

        assert await conversation.end() == conversation.expected
    assert deployment.pids() == pids


async def meet_a_refusal(proxy: RefusingProxy, conversation: Conversation, deadline: float) -> None:
    now = asyncio.get_running_loop().time
    began, is_cut = now(), False
    while not proxy.refused and now() - began < deadline:
        await conversation.say()
        if not is_cut and now() - began > PATIENCE:
            is_cut = True
            await asyncio.to_thread(proxy.cut_all)


@pytest.mark.parametrize("code", SELECTED)
async def test_all_commands_refused_at_once(deployment: Deployment, code: str) -> None:
    await refuse(deployment, code, {})  # every party has sent what it sends
    everything = {party: set(proxy.sent) for party, proxy in deployment.proxies.items()}

    await refuse(deployment, code, everything, DEADLINE)  # some wait for seconds since the last refusal

    assert all(proxy.refused for proxy in deployment.proxies.values())


async def test_flower_goes_on(deployment: Deployment) -> None:
    """The previous tests had Flower refused; it connects again after some seconds."""
    async with opened(deployment.settings) as store:
        conversation = Conversation(store, await new_thread(store), "")
        before = await asyncio.to_thread(deployment.events_in_flower)

        after = before
        async with asyncio.timeout(DEADLINE):
            while after == before:
                await conversation.say()
                after = await asyncio.to_thread(deployment.events_in_flower)


@pytest.mark.skipif(not ALONE, reason="only make test-faults runs it")
@pytest.mark.parametrize("code", REPLIES)
async def test_each_command_refused_alone(deployment: Deployment, code: str) -> None:
    await refuse(deployment, code, {})  # every party has sent what it sends
    for party, proxy in deployment.proxies.items():
        for name in sorted(proxy.sent):
            await refuse(deployment, code, {party: {name}})


@pytest.mark.parametrize("code", REPLIES if ALONE else SELECTED)
async def test_a_process_that_reads_through_the_workers_goes_on(deployment: Deployment, code: str) -> None:
    """Its commands are refused, all of them at once and, in `make test-faults`, each alone."""
    thread_id = await stored_thread(deployment.settings)
    with RefusingProxy(deployment.server, "reader") as proxy:
        through_workers = {"redis_url": proxy.url, "reads": "celery", "flush_timeout_s": 5.0}
        async with open_reader(deployment.settings.model_copy(update=through_workers)) as reader:
            wanted = ReadThreadParams(thread_id=thread_id, fresh=True)
            await reader.read_thread(wanted)
            with proxy.refusing(REPLIES[code], set(proxy.sent)), pytest.raises(Unavailable):
                await reader.read_thread(wanted)
            assert (await reader.read_thread(wanted)).thread_id == thread_id

            for command in sorted(proxy.sent) if ALONE else ():  # with those that withdraw a read
                with proxy.refusing(REPLIES[code], {command}), contextlib.suppress(Unavailable):
                    await reader.read_thread(wanted)
                assert (await reader.read_thread(wanted)).thread_id == thread_id


def test_a_worker_that_starts_while_everything_is_refused_is_ready_later(
    deployment: Deployment, tmp_path: Path
) -> None:
    with RefusingProxy(deployment.server, "late") as proxy:
        late = worker_process(deployment.settings.model_copy(update={"redis_url": proxy.url}), tmp_path, "late")
        try:
            with proxy.refusing(REPLIES["NOPERM"], {*deployment.proxies["worker"].sent, "PING"}):
                late.start()
                wait_until(lambda: proxy.refused["PING"], "a refusal")

            late.wait_for_log(READY)
        finally:
            late.kill()


# -- the real replies ------------------------------------------------------------------------------------------


async def test_a_running_worker_empties_a_full_redis(deployment: Deployment) -> None:
    redis = deployment.server.client
    async with opened(deployment.settings) as store:
        conversation = Conversation(store, await new_thread(store), "OOM")
        with deployment.proxies["worker"].refusing(REPLIES["NOPERM"], {"EVALSHA"}):
            for _ in range(10):
                await conversation.say()
            redis.config_set("maxmemory", 1)
        try:
            stored = await conversation.applied()
        finally:
            redis.config_set("maxmemory", 0)

        assert stored == conversation.expected
        assert await conversation.end() == conversation.expected


async def test_a_worker_that_starts_later_empties_a_full_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_redis.url, home=tmp_path / "home", reads="local")
    worker = worker_process(settings, tmp_path, "worker")
    async with opened(settings) as store:
        conversation = Conversation(store, await new_thread(store), "OOM")
        for _ in range(10):
            await conversation.say()
        own_redis.client.config_set("maxmemory", 1)
        own_redis.client.delete(f"{settings.key_prefix}:celery:{settings.key_prefix}.0")  # the doorbells were lost
        worker.start()
        try:
            stored = await conversation.applied()
        finally:
            worker.kill()

        assert stored == conversation.expected


async def test_a_failover_that_leaves_connections_open(tmp_path: Path) -> None:
    """The old master becomes a replica and stays reachable; new connections reach another server, which has no data."""
    with ExitStack() as stack:
        old, new = (stack.enter_context(contextlib.closing(RedisServer().start())) for _ in range(2))
        proxy = stack.enter_context(RefusingProxy(old, "front"))
        settings = Settings(
            redis_url=proxy.url, home=tmp_path / "home", reads="local", claim_ttl_s=1.0, sweep_interval_s=0.2
        )
        worker = worker_process(settings, tmp_path, "worker")
        worker.start()
        stack.callback(worker.kill)
        worker.wait_for_log(READY)
        async with opened(settings) as store:
            conversation = Conversation(store, await new_thread(store), "")
            assert await conversation.end() == conversation.expected

            proxy.lead_to(new)
            old.client.replicaof("127.0.0.1", "1")

            for _ in range(3):
                assert await conversation.end() == conversation.expected
            await eventually(lambda: store._acknowledgements._is_connected, "the listener")
            assert new.client.pubsub_channels(f"{settings.key_prefix}:*acks:*")
        assert worker.is_running


async def test_reads_leave_a_former_master(tmp_path: Path) -> None:
    """A process that only reads has nothing to send, and so no other call that would notice."""
    with ExitStack() as stack:
        old, new = (stack.enter_context(contextlib.closing(RedisServer().start())) for _ in range(2))
        proxy = stack.enter_context(RefusingProxy(old, "front"))
        settings = Settings(redis_url=proxy.url, home=tmp_path / "home", reads="celery", sweep_interval_s=0.2)
        worker = worker_process(settings, tmp_path, "worker")
        worker.start()
        stack.callback(worker.kill)
        worker.wait_for_log(READY)
        thread_id = await stored_thread(settings)
        async with open_reader(settings) as reader:
            wanted = ReadThreadParams(thread_id=thread_id)
            assert (await reader.read_thread(wanted)).thread_id == thread_id
            proxy.lead_to(new)
            old.client.replicaof("127.0.0.1", "1")

            for _ in range(3):
                assert (await reader.read_thread(wanted)).thread_id == thread_id


async def test_a_read_that_waits_follows_a_failover(tmp_path: Path) -> None:
    with ExitStack() as stack:
        old, new = (
            stack.enter_context(contextlib.closing(RedisServer("--port", str(free_port())).start())) for _ in range(2)
        )
        new.replicate(old)
        proxy = stack.enter_context(RefusingProxy(old, "front"))
        settings = Settings(redis_url=proxy.url, home=tmp_path / "home", reads="celery", sweep_interval_s=0.2)
        first, second = (worker_process(settings, tmp_path, name) for name in ("first", "second"))
        first.start()
        stack.callback(first.kill)
        first.wait_for_log(READY)
        thread_id = await stored_thread(settings)
        first.kill()
        async with open_reader(settings) as reader:
            reading = asyncio.create_task(reader.read_thread(ReadThreadParams(thread_id=thread_id)))
            messages = names.celery_key_prefix(settings.key_prefix) + names.queue_name(settings.key_prefix, 0)
            await eventually(lambda: new.client.llen(messages), "the read in the replica")

            proxy.lead_to(new)
            new.client.replicaof("NO", "ONE")
            old.replicate(new)
            second.start()
            stack.callback(second.kill)

            assert (await reading).thread_id == thread_id


def test_task_events_leave_a_former_master(tmp_path: Path) -> None:
    """A replica accepts publications, too, so no error shows that Flower does not get them."""
    with ExitStack() as stack:
        old, new = (stack.enter_context(contextlib.closing(RedisServer().start())) for _ in range(2))
        proxy = stack.enter_context(RefusingProxy(old, "front"))
        app = stack.enter_context(
            contextlib.closing(create_app(Settings(redis_url=proxy.url, home=tmp_path / "home")))
        )
        events = TaskEvents(app.events.Dispatcher(app.connection_for_write(), hostname="worker@host"), 500)
        for reconnects in (False, False, True):
            if reconnects:
                events.reconnect()
            events._unsent.append({"type": "task-received"})
            events.send()
            proxy.lead_to(new)

        published = [server.client.info("commandstats")["cmdstat_publish"]["calls"] for server in (old, new)]
    assert published == [2, 1]
