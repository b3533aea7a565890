"""The scripts count what they change: a state machine compares the mailboxes before and after each call.

Hypothesis chooses the calls, also repeated and stale ones, moves the clock, and loses data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, Final, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.nodes.counting import true_counts
from tests.nodes.examples import machine_settings
from tests.nodes.processes import RedisServer
from tests.unit.worker.builders import thread_id

from livethread.position import START, position_key
from livethread.queued.scripts import load_script
from livethread.queued.statistics import LAG_BOUNDS_S, LAG_FIELDS
from livethread_config import Settings, names
from livethread_worker.drain import mailbox as mailbox_module
from livethread_worker.drain.mailbox import Claim, Mailbox
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

THREADS: Final = [thread_id(1), thread_id(2), thread_id(3)]
WRITERS: Final = ["a.1", "b.2"]
#: More would be refused.
BOUND: Final = 6
#: Times by which the clock moves, in ms: within and beyond each bucket of the histogram, and back.
MOVES: Final = st.sampled_from([1, 5, 6, 90, 400, 3_000, 70_000, 400_000, -2_000, -100_000])
LINE: Final = '{"timestamp":"2026-01-01T00:00:00.000Z","type":"response_item","payload":{}}'
KINDS: Final = {
    "create": "create_thread",
    "delete": "delete_thread",
    "": "append_items",
    "no lines": "append_items",
    "other": "no_such_op",
}


class Held(NamedTuple):
    """Claims that a worker believes to hold."""

    mailbox: Mailbox
    claims: list[Claim]


class Counting(RuleBasedStateMachine):
    """Calls of all scripts that change a mailbox."""

    server: ClassVar[RedisServer]
    #: The text that a planted fault replaces in a script, and its replacement, by the script's name.
    planted: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.redis: Any = self.server.client
        self.settings = Settings(redis_url=self.server.url, key_prefix="counted", claim_tasks=4)
        self.keys = names.ShardKeys("counted", 0)
        self.clock = "clock-of-counting"
        self.now = 1_800_000_000_000
        self.move_the_clock(0)
        patched = self.stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(mailbox_module, "load_script", self.load_script)
        self.enqueue_script, self.unpark_script, self.drop_script = (
            self.redis.register_script(self.load_script("livethread.queued", name))
            for name in ("enqueue", "unpark", "drop")
        )
        self.held: list[Held] = []
        self.truth: Counter[str] = Counter()
        self.lose_everything()

    def teardown(self) -> None:
        self.lose_everything()
        self.redis.delete(self.clock, names.deployment_key("counted"))
        self.stack.close()

    # -- clients -------------------------------------------------------------------------------------------

    @rule(
        threads=st.lists(st.sampled_from(THREADS), min_size=1, max_size=2, unique=True),
        writer=st.sampled_from(WRITERS),
        # Mostly the next task, but also repeated tasks and gaps.
        start=st.sampled_from([1, 1, 1, 0, -1, 2]),
        count=st.integers(0, 3),
        kind=st.sampled_from(["", "", "", "no lines", "create", "delete", "other"]),
        idempotency_key=st.sampled_from(["", "", "k1", "k2"]),
    )
    def enqueue(
        self, *, threads: list[str], writer: str, start: int, count: int, kind: str, idempotency_key: str
    ) -> None:
        before, of = self.entries(), self.keys
        keys = [
            of.ready,
            of.claims,
            of.tokens,
            of.parked,
            of.bell,
            of.drain,
            of.wake,
            of.deleted,
            of.waiting,
            of.stats,
        ]
        keys.append(names.deployment_key("counted"))
        args: list[Any] = [2_000, 600_000, BOUND, "[[0,1]]"]
        repeated, has_key = [], []
        for id_ in threads:
            keys += [of.mailbox(id_), of.writers(id_), of.applied(id_), of.idempotency_keys(id_)]
            last = int((self.redis.hget(of.writers(id_), writer) or b"0 ").partition(b" ")[0])
            first = max(1, last + start)
            args += [id_, writer, 0, "", count]
            for n in range(first, first + count):
                header = json.dumps({"op": KINDS[kind], "at": "2026-01-01T00:00:00Z"})
                args += [n, kind if kind in {"create", "delete"} else "", "", idempotency_key, header]
                args += ["" if kind else LINE, ""]
            repeated.append(max(0, min(last, first + count - 1) - first + 1))
            has_key.append(self.redis.zscore(of.idempotency_keys(id_), idempotency_key) is not None)

        _, *replies = self.enqueue_script(keys=keys, args=args)

        for _, fields in self.missing_in(before, self.entries()):
            op = json.loads(fields[b"task"])["op"]
            self.truth[f"accepted:{op if op != KINDS['other'] else 'other'}"] += 1
        for (status, *_, fresh), old, had_key in zip(replies, repeated, has_key, strict=True):
            self.truth["duplicates"] += old
            self.truth["refused"] += status != b"ok"
            if idempotency_key:
                self.truth["repeated_keys"] += fresh if had_key else max(0, fresh - 1)

    @precondition(lambda self: self.parked)
    @rule(number=st.integers(0, 2))
    def unpark(self, number: int) -> None:
        of, id_ = self.keys, self.parked[number % len(self.parked)]
        self.unpark_script(keys=[of.ready, of.parked, of.waiting, of.mailbox(id_)], args=[id_])

    @precondition(lambda self: self.parked)
    @rule(number=st.integers(0, 2), count=st.integers(1, BOUND))
    def drop(self, number: int, count: int) -> None:
        before, of, id_ = self.entries(), self.keys, self.parked[number % len(self.parked)]
        positions = [position for thread, position in before if thread == id_][:count]
        why = self.redis.hget(of.parked, id_)
        if not positions:  # lost
            return
        keys = [of.ready, of.parked, of.deleted, of.mailbox(id_), of.writers(id_), of.applied(id_)]
        keys += [of.idempotency_keys(id_), of.waiting, of.stats]

        self.drop_script(keys=keys, args=[id_, why, 600_000, of.acks_prefix, len(positions), *positions])

        self.truth["dropped"] += len(self.missing_in(self.entries(), before))

    # -- workers -------------------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        mailbox = Mailbox(self.redis, self.settings, 0)
        _, claims = mailbox.claim()
        if claims:
            self.held.append(Held(mailbox, claims))

    @precondition(lambda self: self.held)
    @rule(
        number=st.integers(0, 9),
        applied=st.integers(0, 3),
        kind=st.sampled_from([OutcomeKind.DONE, OutcomeKind.POISONED, OutcomeKind.FAILED, OutcomeKind.BUSY]),
        is_repeated=st.sampled_from([False, False, True]),
    )
    def settle(self, number: int, applied: int, kind: OutcomeKind, *, is_repeated: bool) -> None:
        """Settle claims, which may have expired; if they are repeated later, this reply counts as lost."""
        mailbox, claims = held = self.held[number % len(self.held)]
        if not is_repeated:
            self.held.remove(held)
        outcomes = {}
        for claim in claims:
            entries = claim.entries if kind is OutcomeKind.DONE else claim.entries[:applied]
            outcomes[claim.thread_id] = Outcome(kind, entries[-1].position if entries else None, "a reason")
            if entries and entries[-1].task.header.op == "delete_thread":
                outcomes[claim.thread_id] = Outcome(OutcomeKind.DELETED, entries[-1].position)
        holders = self.redis.hgetall(self.keys.tokens)
        parked = self.redis.hlen(self.keys.parked)
        before = self.entries()

        mailbox.settle(claims, outcomes)

        after = self.entries()
        for (id_, position), _ in self.missing_in(after, before):
            if position_key(position) > position_key(outcomes[id_].position or START):
                self.truth["dropped"] += 1  # a deletion leaves nothing
                continue
            lag = max(0, self.now - position_key(position)[0])
            bucket = next((i for i, bound in enumerate(LAG_BOUNDS_S) if lag <= bound * 1000), len(LAG_BOUNDS_S))
            self.truth[LAG_FIELDS[bucket]] += 1
            self.truth["lag_ms"] += lag
        self.truth["parked"] += self.redis.hlen(self.keys.parked) - parked
        left = {id_ for id_, _ in after}
        for id_, outcome in outcomes.items():
            is_held = holders.get(id_.encode()) == mailbox._token.encode()
            self.truth["failures"] += is_held and id_ in left and outcome.kind is OutcomeKind.FAILED

    @rule()
    def sweep(self) -> None:
        Mailbox(self.redis, self.settings, 0).sweep()

    # -- time and losses -----------------------------------------------------------------------------------

    @rule(ms=MOVES)
    def move_the_clock(self, ms: int) -> None:
        self.now += ms
        self.redis.set(self.clock, self.now)

    def lose_everything(self) -> None:
        if lost := list(self.redis.scan_iter("counted:*")):
            self.redis.delete(*lost)
        self.redis.hset(names.deployment_key("counted"), mapping={"wire": 1, "epochs": "[[0,1]]"})
        self.truth.clear()

    @rule(
        id_=st.sampled_from(THREADS), what=st.sampled_from(["mailbox", "waiting", "stats", "deleted", "everything"])
    )
    def lose_and_sweep(self, id_: str, what: str) -> None:
        """Lose everything, or one key, as another program or an older release does: a sweep counts again within a minute."""
        if what == "everything":
            self.lose_everything()
            return
        self.redis.delete(self.keys.mailbox(id_) if what == "mailbox" else getattr(self.keys, what))
        if what == "stats":
            self.truth.clear()
        elif self.redis.hexists(self.keys.stats, "counted_at"):
            self.redis.hset(self.keys.stats, "counted_at", 1)  # long ago
        self.sweep()

    # -- truth ---------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_true(self) -> None:
        assert true_counts(self.redis, self.keys, THREADS) == +self.truth

    @property
    def parked(self) -> list[str]:
        """The parked threads, sorted."""
        return sorted(id_.decode() for id_ in self.redis.hkeys(self.keys.parked))

    def entries(self) -> dict[tuple[str, str], dict[bytes, bytes]]:
        """Return the entries of all mailboxes by thread and position, in order."""
        questions = self.redis.pipeline()
        for id_ in THREADS:
            questions.xrange(self.keys.mailbox(id_))
        mailboxes = zip(THREADS, questions.execute(), strict=True)
        return {(id_, position.decode()): fields for id_, mailbox in mailboxes for position, fields in mailbox}

    @staticmethod
    def missing_in(
        some: Mapping[tuple[str, str], Any], others: Mapping[tuple[str, str], dict[bytes, bytes]]
    ) -> list[tuple[tuple[str, str], dict[bytes, bytes]]]:
        """Return which of *others* are missing in *some*."""
        return [(key, fields) for key, fields in others.items() if key not in some]

    def load_script(self, package: str, name: str) -> str:
        """Return a script that reads the time from the test's clock."""
        time = f"{{ math.floor(redis.call('GET', '{self.clock}') / 1000), redis.call('GET', '{self.clock}') % 1000 * 1000 }}"
        source = load_script(package, name)
        timed = source.replace("redis.call('TIME')", time).replace("call('TIME')", time)
        assert "'TIME'" not in timed
        if name in self.planted:
            assert self.planted[name][0] in timed
            timed = timed.replace(*self.planted[name])
        return timed


def served_by(server: RedisServer, **planted: tuple[str, str]) -> type[Counting]:
    return type("Counting", (Counting,), {"server": server, "planted": planted})


def test_the_counts_are_true_after_each_call(redis_server: RedisServer) -> None:
    run_state_machine_as_test(served_by(redis_server), settings=machine_settings(examples=60, steps=40))


def test_each_bucket_of_the_histogram_is_one_that_clients_know(redis_server: RedisServer) -> None:
    machine = served_by(redis_server)()
    for bound in LAG_BOUNDS_S:
        for ms in (int(bound * 1000), int(bound * 1000) + 1):
            machine.enqueue(threads=THREADS[:1], writer="a.1", start=1, count=1, kind="", idempotency_key="")
            machine.claim()
            machine.move_the_clock(ms)
            machine.settle(number=0, applied=0, kind=OutcomeKind.DONE, is_repeated=False)
            machine.counts_are_true()

    assert machine.truth.keys() >= set(LAG_FIELDS)
    machine.teardown()


# -- planted faults ----------------------------------------------------------------------------------------


def play(machine: Counting) -> None:
    """Let each count change at least once, in ways that show a script that counts wrongly."""

    def enqueue(count: int) -> None:
        machine.enqueue(threads=THREADS[:1], writer="a.1", start=1, count=count, kind="", idempotency_key="")

    def settle(kind: OutcomeKind, *, applied: int = 0) -> None:
        machine.settle(number=0, applied=applied, kind=kind, is_repeated=False)

    steps: list[Callable[[], None]] = [
        lambda: enqueue(1),
        lambda: machine.move_the_clock(90),
        lambda: enqueue(2),
        lambda: enqueue(BOUND),  # refused
        machine.claim,
        lambda: settle(OutcomeKind.FAILED, applied=1),
        # A worker sleeps until another one has claimed the thread, and settles then.
        lambda: machine.move_the_clock(400_000),
        machine.claim,
        lambda: machine.move_the_clock(400_000),
        machine.sweep,
        machine.claim,
        lambda: settle(OutcomeKind.FAILED),
        lambda: settle(OutcomeKind.POISONED),
        lambda: machine.unpark(0),
        machine.claim,
        lambda: settle(OutcomeKind.POISONED),
        lambda: machine.drop(number=0, count=1),
        lambda: machine.lose_and_sweep(THREADS[0], "waiting"),
    ]
    for step in steps:
        step()
        machine.counts_are_true()


def test_the_played_calls_are_counted(redis_server: RedisServer) -> None:
    machine = served_by(redis_server)()
    play(machine)
    assert machine.truth.keys() >= {"accepted:append_items", "dropped", "failures", "parked", "refused"}
    machine.teardown()


@pytest.mark.parametrize(
    ("script", "fault", "match"),
    [
        ("enqueue", ("if length == 0 then", "if true then"), "`waiting` is wrong"),
        ("enqueue", ("count_one('refused')", "count_one('duplicates')"), "refused"),
        ("settle", ("redis.call('ZADD', waiting,", "redis.call('ZADD', waiting, 'NX',"), "`waiting` is wrong"),
        ("settle", ("holder == token", "true"), "failures"),
        ("unpark", ("redis.call('ZADD', KEYS[3],", "redis.call('ZADD', KEYS[3], 'XX',"), "`waiting` is wrong"),
        ("drop", ("'dropped', count", "'dropped', count + 1"), "the number of unapplied tasks is wrong"),
        ("sweep", ("count_again()\nend\n\nreturn", "end\n\nreturn"), "is wrong"),
    ],
)
def test_a_script_that_counts_wrongly_is_caught(
    redis_server: RedisServer, script: str, fault: tuple[str, str], match: str
) -> None:
    machine = served_by(redis_server, **{script: fault})()
    with pytest.raises(AssertionError, match=match):
        play(machine)
    machine.teardown()
