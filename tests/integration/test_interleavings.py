"""Two workers and three writers on a real Redis, interleaved at every call to it.

Each of these actors is an operating-system thread that stops before and after each call. Hypothesis chooses which actor
goes on, loses its connection or is killed, and when, even within a change to a file. The scripts are the shipped ones,
except that the test sets their clock. Everything that Redis accepted must be in the rollouts, once and in the order of
the positions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis import Redis
from tests.nodes.counting import true_counts
from tests.nodes.directing import Actor, Closed, Order, WatchedRedis
from tests.nodes.examples import assert_finds_a_fault, machine_settings
from tests.nodes.killing import DEATHS, Death, Killed, Killer
from tests.nodes.processes import RedisServer
from tests.nodes.workers import HandWorker
from tests.unit.worker.builders import AT, message_line, thread_id

from livethread.metadata import ThreadMetadataPatch
from livethread.observers import Observers
from livethread.ordered_tasks import (
    AppendItems,
    ArchiveThread,
    CreateThread,
    EncodedTask,
    OrderedTask,
    UnarchiveThread,
    UpdateThreadMetadata,
)
from livethread.position import position_key
from livethread.queued import mailboxes as client_mailboxes_module
from livethread.queued import outbox as outbox_module
from livethread.queued.mailboxes import Mailboxes
from livethread.queued.outbox import Outbox
from livethread.queued.scripts import load_script
from livethread.queued.writer import Budget, Submission, Writer
from livethread.rollout.session_meta import session_meta
from livethread.types import CreateThreadParams
from livethread_config import Settings, names
from livethread_worker.drain import mailbox as mailbox_module
from livethread_worker.drain.mailbox import Mailbox
from livethread_worker.store.files.home import Home
from livethread_worker.store.thread_state import ThreadState, WriterMark
from livethread_worker.store.upkeep.doctor import examine
from livethread_worker.store.write.thread_work import ThreadWork

THREADS: Final = [thread_id(1), thread_id(2)]
WORKERS: Final = 2
WRITERS: Final = 3

#: How far the clock moves at once: longer than a claim is valid.
WHILE: Final = 60  # seconds

#: Two drains and a sweep between them clean up after any failure; more than that is a fault.
ROUNDS: Final = 6
#: Enough steps for a drain that finds nothing and for the start of the next one.
DRAIN_STEPS: Final = 10
#: More than enough steps to finish everything.
STEPS: Final = 5_000

#: One step of a writer: the thread, the number of tasks, and their kind.
Step = tuple[int, int, str]
KINDS: Final = ("append", "append", "pair", "patch", "archive", "unarchive")
PROGRAM: Final = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(1, 3), st.sampled_from(KINDS)), min_size=1, max_size=4
)
ACTOR: Final = st.integers(0, WORKERS + WRITERS - 1)


class AwaitedRedis:
    """Gives an outbox a blocking connection; nothing else runs in its event loop meanwhile."""

    def __init__(self, redis: WatchedRedis) -> None:
        self._redis = redis

    def register_script(self, source: str) -> Callable[..., Any]:
        script = self._redis.register_script(source)

        async def call(keys: Any, args: Any) -> Any:
            return script(keys=keys, args=args)

        return call

    async def hget(self, name: str, key: str) -> Any:
        return self._redis.hget(name, key)


class AwaitedScript:
    """Calls a script as `ScriptConnection` does, on the blocking connection."""

    def __init__(self, _redis: AwaitedRedis, script: Callable[..., Any]) -> None:
        self.call = script


class Interleaving(RuleBasedStateMachine):
    """Actors that proceed or fail, and the invariants that hold after each step and at the end."""

    server: ClassVar[RedisServer]
    #: The text that a planted fault replaces in a script, and its replacement, by the script's name.
    planted: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.settings = Settings(
            redis_url=self.server.url,
            home=Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "home",
            key_prefix="interleaved",
            drain_linger_ms=1,
            claim_tasks=3,
        )
        self.redis = self.server.client
        self.keys = names.ShardKeys(self.settings.key_prefix, 0)
        self.forget_keys()
        self.clock = f"{self.settings.key_prefix}:clock"
        self.redis.set(self.clock, 1_800_000_000)
        self.scripts: dict[str, str] = {}
        self.killer = Killer()
        self.stack.enter_context(self.killer.installed())
        patched = self.stack.enter_context(pytest.MonkeyPatch.context())
        for module in (client_mailboxes_module, mailbox_module):
            patched.setattr(module, "load_script", self.load_script)
            patched.setattr(module, "BELL_TTL_MS", 10**9)  # until the clock moves
        patched.setattr(client_mailboxes_module, "ScriptConnection", AwaitedScript)
        patched.setattr(mailbox_module, "DRAIN_TTL_MS", 10**9)
        patched.setattr(outbox_module, "RETRY_FIRST", 0)
        self.bells = 0
        #: Whether something happened that needs time to recover from.
        self.is_disturbed = False
        self.set_back_by = 0  # seconds
        #: Thread -> the actor that holds its claim, until that may have expired.
        self.holders: dict[str, Actor] = {}
        #: Thread -> (writer, n) -> position: everything that Redis ever accepted.
        self.accepted: dict[str, dict[tuple[str, int], str]] = {id_: {} for id_ in THREADS}
        self.submissions: list[tuple[Writer, Submission]] = []
        self.actors: list[Actor] = []

    @initialize(programs=st.lists(PROGRAM, min_size=WRITERS, max_size=WRITERS))
    def begin(self, programs: list[list[Step]]) -> None:
        for number in range(WORKERS):
            self.actors.append(Actor(f"worker {number}", self.work))
        for number, program in enumerate(programs):
            todo = (
                [(0, 1, "create"), (1, 1, "create"), *program] if number == 0 else program
            )  # it creates the threads
            self.actors.append(Actor(f"writer {number}", partial(self.write, todo)))
        for worker in self.actors[:WORKERS]:
            worker.step()
        creator = self.actors[WORKERS]
        while not all(self.accepted.values()):
            creator.step()
            self.observe()

    # -- progress ------------------------------------------------------------------------------------------

    @rule(numbers=st.lists(ACTOR, min_size=1, max_size=20))
    def go_on(self, numbers: list[int]) -> None:
        for number in numbers:
            self.step(self.actors[number])

    @rule(number=st.integers(0, WORKERS - 1), steps=st.integers(1, 8))
    def drain(self, number: int, steps: int) -> None:
        """Let one worker proceed while all other actors wait."""
        for _ in range(steps):
            self.step(self.actors[number])

    # -- failures ------------------------------------------------------------------------------------------

    @rule(number=ACTOR, order=st.sampled_from([Order.DISCONNECT, Order.DIE]))
    def fail(self, number: int, order: Order) -> None:
        actor = self.actors[number]
        if actor.place.startswith(("before", "after")):
            self.is_disturbed = True
            self.step(actor, order)

    @precondition(lambda self: self.applying())
    @rule(number=ACTOR, death=DEATHS)
    def kill_within_a_change(self, number: int, death: Death) -> None:
        """Kill a worker that has claimed threads while it changes files or index, unless it makes too few changes."""
        self.is_disturbed = True
        applying = self.applying()
        with self.killer.killing_at(death):
            self.step(applying[number % len(applying)])
            if self.killer.killed_at:
                note(f"killed at {self.killer.killed_at}")

    @rule(is_set_back=st.sampled_from([False, False, True]))
    def move_the_clock(self, is_set_back: bool) -> None:
        """Let claims, doorbells and the heartbeats of drains expire, or set the clock back."""
        self.holders.clear()
        if is_set_back:
            self.is_disturbed = True
            self.set_back_by += WHILE
            self.redis.decrby(self.clock, WHILE)
        else:
            self.redis.incrby(self.clock, WHILE)
            self.redis.delete(self.keys.bell, self.keys.drain)
        self.sweep()

    @precondition(lambda self: self.applying())
    @rule()
    def overtake(self) -> None:
        """Let a worker that has claimed threads sleep until another worker has claimed them."""
        sleeper = self.applying()[0]
        self.move_the_clock(is_set_back=False)
        [other] = [worker for worker in self.actors[:WORKERS] if worker is not sleeper]
        for _ in range(DRAIN_STEPS):
            self.step(other)
            if other.place == "after claim":
                break

    @precondition(lambda self: self.bells)
    @rule(change=st.sampled_from([-1, 1]))
    def lose_or_double_a_bell(self, change: int) -> None:
        self.is_disturbed = True
        self.bells += change

    # -- end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.actors:
                self.finish()
                self.check()
        finally:
            for actor in self.actors:
                actor.close()
            self.forget_keys()
            self.stack.close()

    def finish(self) -> None:
        """Let all actors proceed until nothing is left to do; after a failure, move the clock, too."""
        self.go_on_to_the_end()
        self.redis.incrby(self.clock, self.set_back_by)
        for _ in range(ROUNDS if self.is_disturbed else 0):
            self.move_the_clock(is_set_back=False)
            self.go_on_to_the_end()

    def go_on_to_the_end(self) -> None:
        for _ in range(STEPS):
            able = [actor for actor in self.actors if self.can_step(actor)]
            if not able:
                return
            for actor in able:
                self.step(actor)
        raise AssertionError("the actors do not finish")

    def check(self) -> None:
        redis, keys, home = self.redis, self.keys, Home(self.settings.home)
        left = [
            keys.ready,
            keys.claims,
            keys.tokens,
            keys.attempts,
            keys.parked,
            keys.drain,
            *map(keys.mailbox, THREADS),
        ]
        assert [key for key in left if redis.exists(key)] == []
        for id_ in THREADS:
            tasks, is_archived = self.expected(id_)
            assert self.applied(id_) == tasks, f"the rollout of {id_} is not what Redis accepted"
            assert home.is_archived(home.require_rollout(id_)) == is_archived
        for writer, submission in self.submissions:
            assert submission.accepted.done()
            if not submission.accepted.cancelled():  # as it is if the process that waited was killed
                assert (writer.id, submission.n) in self.accepted[writer.thread_id]
            if submission.patch is not None and submission.n:
                held = {(writer.id, n) in self.accepted[writer.thread_id] for n in (submission.n, submission.last)}
                assert len(held) == 1, "half a pair was accepted"
        assert examine(home, fix=False).faults == []

    def applied(self, id_: str) -> list[tuple[tuple[str, int], int]]:
        """Return the tasks in a rollout, in order, each with its number of lines."""
        tasks: list[tuple[tuple[str, int], int]] = []
        for number, line in enumerate(Home(self.settings.home).require_rollout(id_).read_bytes().splitlines()):
            record = json.loads(line)
            assert record["ordinal"] == number
            writer, _, n = record["seq"].rpartition(":")
            task, count = (writer, int(n)), 1
            if tasks and tasks[-1][0] == task:
                count += tasks.pop()[1]
            tasks.append((task, count))
        return tasks

    # -- helpers -------------------------------------------------------------------------------------------

    def expected(self, id_: str) -> tuple[list[tuple[tuple[str, int], int]], bool]:
        """Return the tasks that leave lines, in the order of acceptance, with their numbers of lines.

        The second value is whether they leave the thread archived.
        """
        sent = {(writer.id, each.n): each for writer, each in self.submissions if each.n}
        patches = {(writer.id, each.last) for writer, each in self.submissions if each.patch is not None}
        is_archived = False
        tasks: list[tuple[tuple[str, int], int]] = []
        for task in sorted(self.accepted[id_], key=lambda task: position_key(self.accepted[id_][task])):
            if task in patches:  # a derived patch leaves no line
                continue
            submission = sent[task]
            count = 1
            if submission.task.op == "append_items":
                count = submission.task.lines.count(b"\n") + 1
            elif submission.task.op in {"archive_thread", "unarchive_thread"}:
                is_archived = submission.task.op == "archive_thread"
            tasks.append((task, count))
        return tasks, is_archived

    def load_script(self, package: str, name: str) -> str:
        """Return a script that reads the time from the test's clock."""
        source = load_script(package, name)
        timed = source.replace("redis.call('TIME')", f"{{ redis.call('GET', '{self.clock}'), 0 }}")
        assert "'TIME'" not in timed
        if name in self.planted:
            assert self.planted[name][0] in timed
            timed = timed.replace(*self.planted[name])
        self.scripts[hashlib.sha1(timed.encode()).hexdigest()] = name  # as Redis knows it
        self.redis.script_load(timed)
        return timed

    def forget_keys(self) -> None:
        if keys := list(self.redis.scan_iter(f"{self.settings.key_prefix}:*", count=1_000)):
            self.redis.delete(*keys)
        self.redis.hset(names.deployment_key(self.settings.key_prefix), mapping={"wire": 1, "epochs": "[[0,1]]"})

    def applying(self) -> list[Actor]:
        """Return the workers that are about to apply their claims, if they have any."""
        return [actor for actor in self.actors if actor.place == "after claim"]

    def can_step(self, actor: Actor) -> bool:
        return not actor.is_over and (actor.place != "idle" or self.bells > 0)

    def step(self, actor: Actor, order: Order = Order.GO_ON) -> None:
        if not self.can_step(actor):
            return
        if actor.place == "idle" and order is Order.GO_ON:
            self.bells -= 1
        before = actor.place
        actor.step(order)
        note(f"{actor.name}: {before} -> {actor.place}")
        self.observe()

    def sweep(self) -> None:
        if Mailbox(self.redis, self.settings, 0).sweep():
            self.ring()

    def ring(self) -> None:
        self.bells += 1

    def observe(self) -> None:
        """Record what Redis has accepted, and check the invariants."""
        redis, keys = self.redis, self.keys
        for id_, known in self.accepted.items():
            entries: Any = redis.xrange(keys.mailbox(id_))
            for position, fields in entries:
                task = fields[b"writer"].decode(), int(fields[b"n"])
                assert known.setdefault(task, position.decode()) == position.decode(), f"{task} was accepted twice"
        claims: set[Any] = set(redis.zrange(keys.claims, 0, -1))
        assert claims == set(redis.hkeys(keys.tokens))
        assert not claims & set(redis.zrange(keys.ready, 0, -1))
        assert self.holders.keys() <= {claimed.decode() for claimed in claims}, "a claim was lost"
        counts = true_counts(redis, keys, THREADS)
        accepted = sum(n for name, n in counts.items() if name.startswith("accepted:"))
        assert accepted == sum(map(len, self.accepted.values())), "an accepted task was not counted once"

    def heard(self, actor: Actor, name: str, reply: Any) -> None:
        """Record the holders of claims, and check that no thread is claimed twice."""
        if name == "claim":
            for claimed, *_ in reply[1:]:
                holder = self.holders.get(claimed.decode())
                assert holder is None, f"{actor.name} claimed a thread that {holder.name} holds"
                self.holders[claimed.decode()] = actor
        elif name == "settle":
            self.holders = {id_: holder for id_, holder in self.holders.items() if holder is not actor}

    def watched(self, actor: Actor) -> WatchedRedis:
        return WatchedRedis.of(self.settings.client_url, actor, self.scripts, self.heard)

    def work(self, actor: Actor) -> None:
        """Run a worker process; if it is killed, run the next one."""
        while True:
            worker = Hand(self.settings, self.watched(actor), self.ring)
            try:
                while True:
                    actor.stand("idle")
                    worker.drain()
            except Killed:
                continue
            except Closed:
                return
            finally:
                worker.close()

    def write(self, program: list[Step], actor: Actor) -> None:
        """Run a writing process; if it is killed, the next one continues after the step that was in progress."""
        todo = iter(program)
        while True:
            try:
                asyncio.run(self.write_all(todo, actor))
            except Killed:
                continue
            return

    async def write_all(self, todo: Iterator[Step], actor: Actor) -> None:
        """Write as a store does: through one outbox, with one writer for each thread."""
        redis = self.watched(actor)
        connection: Any = AwaitedRedis(redis)
        doorbell: Any = SimpleNamespace(ring=lambda _: self.ring())
        mailboxes = Mailboxes(connection, self.settings, doorbell)
        outbox = Outbox(mailboxes, self.settings)
        budget, observers = Budget(10**9), Observers()
        writers = [
            Writer(id_, uuid.uuid4().hex[:16], mailboxes.place(id_), budget, observers, max_tasks=1_000)
            for id_ in THREADS
        ]
        outbox.start()
        try:
            for thread, count, kind in todo:
                writer = writers[thread]
                submissions = [submission_of(writer, kind, n) for n in range(count)]
                for submission in submissions:
                    writer.submit(submission)
                self.submissions += [(writer, submission) for submission in submissions]
                outbox.send(writer)
                accepted = asyncio.gather(*(submission.accepted for submission in submissions))
                ends: list[asyncio.Future[Any]] = [accepted, *outbox._tasks]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if not accepted.done():
                    accepted.cancel()
                    with suppress(asyncio.CancelledError):
                        await accepted
                    [ended] = [task for task in outbox._tasks if task.done()]
                    raise ended.exception() or AssertionError("the sender ended")
        finally:
            redis.close()


class Hand(HandWorker):
    """A worker with a watched connection and a doorbell of the test."""

    def __init__(self, settings: Settings, redis: Redis, ring: Callable[[], None]) -> None:
        super().__init__(settings)
        self.redis.close()
        self.redis, self._rung = redis, ring

    def _ring(self) -> None:
        self._rung()


def submission_of(writer: Writer, kind: str, n: int) -> Submission:
    """Return a submission of *kind*; a pair is an append and its derived patch."""
    if kind == "pair":
        patch = UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(title=f"{writer.id} {n}"), derived=True)
        return Submission(task_of(writer, "append", n), patch=OrderedTask(patch).encode())
    return Submission(task_of(writer, kind, n))


def task_of(writer: Writer, kind: str, n: int) -> EncodedTask:
    """Return a task of *kind*; an append has one or two lines."""
    match kind:
        case "create":
            params = CreateThreadParams(thread_id=writer.thread_id, created_at=AT)
            return OrderedTask(CreateThread(at=AT, session_meta=session_meta(params))).encode()
        case "patch":
            patch = ThreadMetadataPatch(title=f"{writer.id} {n}", name=f"{n}")
            return OrderedTask(UpdateThreadMetadata(at=AT, patch=patch)).encode()
        case "archive":
            return OrderedTask(ArchiveThread(at=AT)).encode()
        case "unarchive":
            return OrderedTask(UnarchiveThread(at=AT)).encode()
        case _:
            return OrderedTask(
                AppendItems(at=AT), tuple(message_line(f"{writer.id} {n}") for _ in range(1 + n % 2))
            ).encode()


def served_by(server: RedisServer, **planted: tuple[str, str]) -> type[Interleaving]:
    return type("Interleaving", (Interleaving,), {"server": server, "planted": planted})


def test_accepted_tasks_are_applied_once_and_in_order(
    redis_server: RedisServer,
) -> None:
    run_state_machine_as_test(served_by(redis_server), settings=machine_settings(examples=30, steps=30))


# -- planted faults ----------------------------------------------------------------------------------------


def test_the_machine_catches_a_settle_that_ignores_the_claims_holder(redis_server: RedisServer) -> None:
    planted = served_by(redis_server, settle=("holder == token", "true"))

    assert_finds_a_fault(planted, "the number of unapplied tasks is wrong")


def test_the_machine_catches_a_settle_that_releases_the_claims_of_others(redis_server: RedisServer) -> None:
    held = "if held[number] then\n    mine[#mine + 1] = thread\n"
    planted = served_by(redis_server, settle=(held, "mine[#mine + 1] = thread\n  if held[number] then\n"))

    assert_finds_a_fault(planted, "a claim was lost")


def test_the_machine_catches_a_settle_that_drops_newer_tasks(redis_server: RedisServer) -> None:
    planted = served_by(redis_server, settle=("redis.call('XTRIM', mailbox, 'MINID',", "redis.call('DEL', mailbox,"))

    assert_finds_a_fault(planted)


def test_the_machine_catches_an_enqueue_that_accepts_a_task_twice(redis_server: RedisServer) -> None:
    planted = served_by(redis_server, enqueue=("status == 'ok' and n > last", "status == 'ok'"))

    assert_finds_a_fault(planted, "was accepted twice")


def test_the_machine_catches_workers_that_forget_the_counters(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadState, "mark", lambda _state, _writer: WriterMark(0, 0))
    monkeypatch.setattr(ThreadWork, "is_committed", lambda _work, _entry: False)

    assert_finds_a_fault(served_by(redis_server), "is not what Redis accepted")
