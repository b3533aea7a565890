from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.queued.faulty_mailboxes import new_writer, queue

from livethread.errors import Conflict, ResourceExhausted, ThreadStoreError, Unavailable
from livethread.metadata import ThreadMetadataPatch
from livethread.observers import (
    ItemsAppended,
    MetadataUpdated,
    Observers,
    TasksApplied,
    ThreadEvent,
    ThreadParkedEvent,
)
from livethread.ordered_tasks import AppendItems, CreateThread, EncodedTask, OrderedTask, UpdateThreadMetadata
from livethread.position import START
from livethread.queued.parking import Parking
from livethread.queued.writer import Budget, NoRoom, Submission, Writer

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
THREAD = "019a93b9-f380-7600-98ff-940e6b99603c"
FULL = ResourceExhausted("the mailbox is full")
FENCED = Conflict("a newer writer")
MOVED = Conflict.of_position("t1", "9-0", "7-0")
FOREVER = float("inf")
MANY = 1_000
PATCH = OrderedTask(UpdateThreadMetadata(at=AT, patch=ThreadMetadataPatch(title="t"), derived=True)).encode()


@pytest.fixture
def budget() -> Budget:
    return Budget(1_000_000)


@pytest.fixture
async def writer(budget: Budget) -> Writer:
    return new_writer(THREAD, budget, max_tasks=MANY)


def append(text: bytes = b"x") -> EncodedTask:
    return OrderedTask(AppendItems(at=AT), (text,)).encode()


def creation() -> EncodedTask:
    return OrderedTask(CreateThread(at=AT, session_meta={"id": THREAD})).encode()


def submit(writer: Writer, count: int) -> list[Submission]:
    return [queue(writer, append(b"%d" % i)) for i in range(count)]


def counters(writer: Writer) -> tuple[int, list[int], list[int]]:
    """Return the floor, and the counters of the unapplied and of the queued tasks."""
    return writer.floor, [s.n for s in writer.unapplied], [s.n for s in writer.queue]


async def test_a_new_writer_has_nothing_outstanding(writer: Writer) -> None:
    assert counters(writer) == (0, [], [])
    assert not writer.has_outstanding
    assert writer.is_applied_up_to(writer.marker)


async def test_a_task_gets_its_counter_when_it_is_sent(writer: Writer) -> None:
    submitted = submit(writer, 3)
    assert counters(writer) == (0, [], [0, 0, 0])

    sent = writer.take(2)

    assert sent == submitted[:2]
    assert counters(writer) == (0, [], [1, 2, 0])


async def test_taking_tasks_again_gives_them_the_same_counters(writer: Writer) -> None:
    submit(writer, 3)

    writer.take(2)
    writer.take(10)

    assert counters(writer) == (0, [], [1, 2, 3])


# -- accepting ---------------------------------------------------------------------------------------------


async def test_the_tasks_that_redis_holds_are_accepted_and_kept(writer: Writer) -> None:
    first, second, third = submit(writer, 3)
    writer.take(3)

    writer.accept(2, "7-1", 2)

    assert counters(writer) == (0, [1, 2], [3])
    assert (first.accepted.result(), second.accepted.result()) == ("7-0", "7-1")
    assert (first.position, second.position) == ("7-0", "7-1")
    assert not third.accepted.done()
    assert writer.last_accepted == 2
    assert writer.changed.is_set()


async def test_a_task_that_an_earlier_call_stored_gets_the_last_position(writer: Writer) -> None:
    """Its own position is unknown, and waiting for a later one is safe."""
    submitted = submit(writer, 4)
    writer.take(4)

    writer.accept(4, "7-5", 2)

    assert [submission.accepted.result() for submission in submitted] == ["7-5", "7-5", "7-4", "7-5"]


async def test_a_task_that_was_never_sent_is_not_accepted(writer: Writer) -> None:
    submit(writer, 1)

    writer.accept(5, "7-0", 0)

    assert counters(writer) == (0, [], [0])


async def test_accepting_the_same_counter_again_changes_nothing(writer: Writer) -> None:
    submit(writer, 2)
    writer.take(1)
    writer.accept(1, "7-0", 1)
    writer.take(1)

    writer.accept(1, "7-0", 0)

    assert counters(writer) == (0, [1], [2])


async def test_a_task_is_accepted_even_if_its_caller_no_longer_waits(writer: Writer) -> None:
    (submission,) = submit(writer, 1)
    writer.take(1)
    submission.accepted.cancel()

    writer.accept(1, "7-0", 1)

    assert counters(writer) == (0, [1], [])


# -- applying ----------------------------------------------------------------------------------------------


async def test_applied_tasks_are_released(writer: Writer) -> None:
    submit(writer, 3)
    writer.take(1)
    writer.accept(1, "7-0", 1)
    writer.take(1)
    writer.accept(2, "8-0", 1)
    writer.changed.clear()

    writer.note_applied(1, "7-5")

    assert counters(writer) == (1, [2], [0])
    assert writer.applied == "7-5"
    assert writer.changed.is_set()


async def test_tasks_are_identified_by_their_counters_and_not_by_their_positions(writer: Writer) -> None:
    """After it lost data, Redis assigns positions again, so a higher one may be another writer's."""
    submit(writer, 1)
    writer.take(1)
    writer.accept(1, "10-0", 1)

    writer.note_applied(0, "99-0")
    assert counters(writer) == (0, [1], [])
    writer.note_applied(1, "9-0")

    assert counters(writer) == (1, [], [])


async def test_tasks_acknowledged_before_they_are_accepted_are_released_on_acceptance(budget: Budget) -> None:
    """The worker's acknowledgement and Redis' reply arrive on different connections."""
    observers, events = Observers(), list[object]()
    observers.subscribe(events.append)
    writer = new_writer(THREAD, budget, max_tasks=MANY, observers=observers)
    submit(writer, 2)
    marker = writer.marker
    writer.take(2)

    writer.note_applied(2, "7-1")
    before = counters(writer), list(events)
    writer.accept(2, "7-1", 2)

    assert before == ((0, [], [1, 2]), [])
    assert (counters(writer), events) == ((2, [], []), [TasksApplied(THREAD, "7-1")])
    assert writer.is_applied_up_to(marker)
    assert budget.used == 0


@pytest.mark.parametrize(
    ("error", "deadline"), [(FENCED, 0.0), (MOVED, 0.0), (FULL, FOREVER)], ids=["refused", "given up", "postponed"]
)
async def test_an_acknowledged_task_is_not_refused_even_if_redis_lost_it(
    writer: Writer, error: ThreadStoreError, deadline: float
) -> None:
    """Its counter is used: the next task with this counter would be dropped as a repetition."""
    first, _ = (queue(writer, append(), deadline=deadline) for _ in range(2))
    writer.take(2)
    writer.note_applied(1, "7-0")

    assert writer.refuse(error)
    numbered = [submission.n for submission in writer.take(1)]

    assert await first.accepted == "7-0"
    assert (counters(writer), numbered) == ((1, [], [2]), [2])


async def test_counters_continue_after_the_applied_tasks(writer: Writer) -> None:
    submit(writer, 1)
    writer.take(1)
    writer.accept(1, "7-0", 1)
    writer.note_applied(1, "7-0")

    submit(writer, 1)
    writer.take(1)

    assert counters(writer) == (1, [], [2])


# -- refusing ----------------------------------------------------------------------------------------------


async def test_only_the_first_task_is_refused_and_later_tasks_get_new_counters(writer: Writer) -> None:
    accepted, refused, later = submit(writer, 3)
    writer.take(3)
    writer.accept(1, "7-0", 1)

    assert writer.refuse(FULL)
    writer.take(10)

    assert counters(writer) == (0, [1], [2])
    assert accepted.accepted.result() == "7-0"
    assert refused.accepted.exception() is FULL
    assert (later.n, later.accepted.done()) == (2, False)


async def test_refusing_a_threads_creation_also_refuses_the_tasks_after_it(writer: Writer) -> None:
    error = Conflict("the thread exists")
    submissions = [queue(writer, creation()), *submit(writer, 2)]
    writer.take(2)

    assert writer.refuse(error)

    assert counters(writer) == (0, [], [])
    assert [submission.accepted.exception() for submission in submissions] == [error] * 3


async def test_an_accepted_task_is_never_refused_when_it_is_offered_again(writer: Writer, budget: Budget) -> None:
    (submission,) = submit(writer, 1)
    writer.take(1)
    writer.accept(1, "7-0", 1)
    writer.rewind(0)
    used = budget.used

    assert not writer.refuse(FULL)

    assert (counters(writer), budget.used) == ((0, [], [1]), used)
    assert submission.accepted.result() == "7-0"


async def test_a_task_that_was_reported_as_queued_is_never_refused(writer: Writer) -> None:
    late, after = submit(writer, 2)
    writer.take(2)
    late.accepted.set_exception(Unavailable("it stays queued", is_queued=True))
    late.accepted.exception()

    assert not writer.refuse(FULL)

    assert counters(writer) == (0, [], [1, 2])
    assert not after.accepted.done()


async def test_refusing_a_creation_keeps_the_promised_tasks_after_it(writer: Writer) -> None:
    created, dependent, promised = queue(writer, creation()), *submit(writer, 2)
    promised.accepted.set_exception(Unavailable("it stays queued", is_queued=True))
    promised.accepted.exception()

    assert writer.refuse(FULL)

    assert [s.accepted.exception() for s in (created, dependent)] == [FULL] * 2
    assert list(writer.queue) == [promised]


async def test_dropping_all_fails_every_queued_task(writer: Writer) -> None:
    submissions = submit(writer, 3)
    error = Conflict("the thread is gone")

    writer.drop_all(error)

    assert counters(writer) == (0, [], [])
    assert [submission.accepted.exception() for submission in submissions] == [error] * 3
    assert writer.changed.is_set()


async def test_dropping_a_task_whose_caller_no_longer_waits_raises_no_error(writer: Writer) -> None:
    (submission,) = submit(writer, 1)
    submission.accepted.cancel()

    writer.drop_all(FULL)

    assert counters(writer) == (0, [], [])


async def test_a_dropped_task_whose_error_is_never_read_causes_no_warning(writer: Writer) -> None:
    submit(writer, 1)

    writer.drop_all(FULL)
    await asyncio.sleep(0)

    assert not writer.has_outstanding


# -- losing ------------------------------------------------------------------------------------------------


async def test_tasks_that_redis_lost_are_queued_again_in_order_with_their_counters(writer: Writer) -> None:
    submitted = submit(writer, 4)
    writer.take(3)
    writer.accept(3, "7-2", 3)

    writer.rewind(1)

    assert counters(writer) == (0, [1], [2, 3, 0])
    assert [submission.is_repeated for submission in submitted] == [False, True, True, False]
    writer.take(10)
    assert counters(writer) == (0, [1], [2, 3, 4])


async def test_a_task_that_is_accepted_again_gets_its_new_position(writer: Writer) -> None:
    (submission,) = submit(writer, 1)
    writer.take(1)
    writer.accept(1, "7-0", 1)
    writer.rewind(0)
    writer.take(1)

    writer.accept(1, "9-0", 1)

    assert counters(writer) == (0, [1], [])
    assert (submission.accepted.result(), submission.position) == ("7-0", "9-0")


# -- waiting -----------------------------------------------------------------------------------------------


async def test_a_marker_separates_earlier_tasks_from_later_ones(writer: Writer) -> None:
    submit(writer, 2)
    marker = writer.marker
    submit(writer, 1)
    writer.take(3)
    writer.accept(1, "7-0", 1)
    assert not writer.is_applied_up_to(marker)
    writer.accept(3, "8-1", 2)

    writer.note_applied(1, "7-0")
    assert not writer.is_applied_up_to(marker)
    writer.note_applied(2, "8-0")

    assert writer.is_applied_up_to(marker)
    assert not writer.is_applied_up_to(writer.marker)
    writer.note_applied(3, "8-1")
    assert not writer.has_outstanding


async def test_a_rewound_task_is_not_applied(writer: Writer) -> None:
    submit(writer, 1)
    writer.take(1)
    writer.accept(1, "7-0", 1)

    writer.rewind(0)

    assert not writer.is_applied_up_to(writer.marker)


async def test_a_refused_task_does_not_block_a_flush(writer: Writer) -> None:
    submit(writer, 1)
    marker = writer.marker

    assert writer.refuse(FULL)

    assert writer.is_applied_up_to(marker)


async def test_waiters_are_notified_when_a_thread_is_parked_and_when_it_is_retried(writer: Writer) -> None:
    writer.note_parked(Parking("disk full"))
    assert (writer.parked, writer.changed.is_set()) == ("disk full", True)
    writer.changed.clear()

    writer.note_parked(None)

    assert (writer.parked, writer.changed.is_set()) == (None, True)


# -- events ------------------------------------------------------------------------------------------------


def reporting(budget: Budget) -> tuple[Writer, list[ThreadEvent]]:
    observers, events = Observers(), list[ThreadEvent]()
    observers.subscribe(events.append)
    return new_writer(THREAD, budget, max_tasks=MANY, observers=observers), events


def reported_pair(writer: Writer) -> Submission:
    """Submit an append of two items, with a patch of the title."""
    appended = partial(ItemsAppended, THREAD, items=2, size=10)
    submission = Submission(append(), None, PATCH, appended, partial(MetadataUpdated, THREAD, fields=("title",)))
    writer.submit(submission)
    return submission


APPENDED = ItemsAppended(THREAD, "7-0", 2, 10)
PATCHED = MetadataUpdated(THREAD, "7-1", ("title",))


async def test_an_append_is_reported_once_when_redis_accepts_it_though_its_caller_was_told_that_it_waits(
    budget: Budget,
) -> None:
    writer, events = reporting(budget)
    submission = reported_pair(writer)
    submission.fail(Unavailable("it stays queued", is_queued=True))
    before = list(events)

    writer.take(MANY)
    writer.accept(2, "7-1", 2)
    writer.rewind(0)  # Redis lost it
    writer.take(MANY)
    writer.accept(2, "8-1", 2)

    assert (before, events) == ([], [APPENDED, PATCHED])


async def test_an_append_and_its_patch_are_reported_apart_if_redis_held_only_the_append(budget: Budget) -> None:
    writer, events = reporting(budget)
    reported_pair(writer)
    writer.take(MANY)

    writer.accept(1, "7-0", 1)
    assert events == [APPENDED]

    writer.take(MANY)
    writer.accept(2, "7-1", 1)
    assert events == [APPENDED, PATCHED]


async def test_a_refused_append_is_not_reported(budget: Budget) -> None:
    writer, events = reporting(budget)
    reported_pair(writer)

    assert writer.refuse(FULL)

    assert events == []


async def test_each_parking_is_reported_once_though_old_replies_deny_it(budget: Budget) -> None:
    writer, events = reporting(budget)
    first, second = Parking("disk full", AT), Parking("disk full", AT + timedelta(seconds=1))

    for parking in (first, first, None, first, second, None, second):
        writer.note_parked(parking)
    again = new_writer(THREAD, budget, max_tasks=MANY, observers=writer._observers)
    again.note_parked(second)

    assert events == [
        ThreadParkedEvent(THREAD, "disk full", AT),
        ThreadParkedEvent(THREAD, "disk full", AT + timedelta(seconds=1)),
    ]


# -- an append and its derived patch -------------------------------------------------------------------------


def queue_pair(
    writer: Writer, text: bytes = b"x", *, expected: str | None = None, deadline: float = 0.0
) -> Submission:
    return queue(writer, append(text), expected, deadline, patch=PATCH)


async def test_a_pair_has_two_counters_and_the_position_of_its_patch(writer: Writer) -> None:
    before, pair, after = queue(writer, append()), queue_pair(writer), queue(writer, append())

    assert writer.take(10) == [before, pair, after]
    assert [(s.n, s.last) for s in (before, pair, after)] == [(1, 1), (2, 3), (4, 4)]
    writer.accept(4, "7-3", 4)

    assert [await s.accepted for s in (before, pair, after)] == ["7-0", "7-2", "7-3"]
    assert pair.append_position == "7-1"
    assert writer.last_accepted == 4


async def test_a_batch_never_splits_a_pair(writer: Writer) -> None:
    first, pair = queue(writer, append()), queue_pair(writer)

    assert writer.take(2) == [first]
    assert writer.take(3, first.size + pair.size - 1) == [first]
    writer.accept(1, "7-0", 1)

    assert writer.take(1) == [pair]


async def test_a_pair_needs_room_for_both_tasks(budget: Budget) -> None:
    writer = new_writer(THREAD, budget, max_tasks=3)
    queue_pair(writer)
    with pytest.raises(NoRoom):
        queue_pair(writer)
    with pytest.raises(ResourceExhausted):
        queue_pair(new_writer(THREAD, Budget(append().size + PATCH.size - 1), max_tasks=MANY))

    queue(writer, append())

    assert budget.used == 2 * append().size + PATCH.size


@pytest.mark.parametrize("how", ["refused", "given up", "withdrawn", "dropped"])
async def test_a_pair_ends_as_a_whole(writer: Writer, budget: Budget, how: str) -> None:
    pair = queue_pair(writer, deadline=FOREVER if how == "withdrawn" else 0.0)
    later = queue(writer, append())
    writer.take(10)
    match how:
        case "refused":
            assert writer.refuse(FULL)
        case "given up":
            pair.accepted.set_result("7-0")
            assert writer.refuse(MOVED)
        case "withdrawn":
            assert not writer.refuse(FULL)
            assert writer.withdraw(pair)
        case _:
            writer.drop_all(FULL)

    assert pair.accepted.done()
    assert [s.n for s in writer.take(10)] == ([] if how == "dropped" else [1])
    assert budget.used == (0 if how == "dropped" else later.size)


async def test_a_pair_that_redis_lost_is_sent_again_as_a_whole(writer: Writer) -> None:
    pair = queue_pair(writer, expected="1-1")
    writer.take(10)
    writer.accept(2, "7-1", 2)

    writer.rewind(0)

    assert writer.take(10) == [pair]
    assert (pair.n, pair.last, pair.is_repeated, pair.is_promised) == (1, 2, True, True)


async def test_a_lost_patch_is_sent_again_without_its_append(writer: Writer, budget: Budget) -> None:
    pair = queue_pair(writer)
    writer.take(10)
    writer.accept(2, "7-1", 2)
    used = budget.used

    writer.rewind(1)
    [patch] = writer.take(10)

    assert (patch.task, patch.n, patch.is_promised, pair.task.op) == (PATCH, 2, True, "append_items")
    assert (counters(writer), budget.used) == ((0, [1], [2]), used)
    writer.accept(2, "8-0", 1)
    writer.note_applied(2, "8-0")
    assert (counters(writer), budget.used) == ((2, [], []), 0)


async def test_a_pair_is_accepted_only_once_redis_holds_its_patch(writer: Writer) -> None:
    pair = queue_pair(writer)
    accepted = pair.accepted
    writer.take(10)

    writer.accept(1, "7-0", 1)
    assert not accepted.done()
    assert not writer.refuse(FULL)
    [patch] = writer.take(10)
    writer.accept(2, "8-0", 1)

    assert (patch.n, await accepted, pair.append_position) == (2, "8-0", "7-0")


async def test_an_acknowledged_append_is_released_and_its_patch_kept(writer: Writer) -> None:
    pair = queue_pair(writer)
    writer.take(10)
    writer.accept(2, "7-1", 2)

    writer.note_applied(1, "7-0")
    assert not writer.is_applied_up_to(pair.order)
    writer.note_applied(2, "7-1")

    assert writer.is_applied_up_to(pair.order)
    assert writer.floor == 2


async def test_a_threads_creation_is_sent_before_its_first_pair(budget: Budget) -> None:
    writer = new_writer(THREAD, budget, max_tasks=MANY)
    writer.creation = creation()

    pairs = [queue_pair(writer, expected=START if n == 0 else None) for n in range(5)]
    sent = writer.take(MANY)

    assert [s.task.op for s in sent] == ["create_thread", *["append_items"] * 5]
    assert [(s.n, s.last) for s in pairs] == [(n, n + 1) for n in range(2, 12, 2)]
    assert pairs[0].expected is None  # the creation's own condition replaces it


# -- bounds ------------------------------------------------------------------------------------------------


async def test_a_writer_keeps_at_most_its_limit_of_tasks(budget: Budget) -> None:
    writer = new_writer(THREAD, budget, max_tasks=3)
    submit(writer, 3)
    writer.take(2)
    writer.accept(2, "7-1", 2)  # accepted tasks are kept, too

    with pytest.raises(ResourceExhausted, match=f"3 tasks of thread {THREAD} wait to be applied"):
        submit(writer, 1)
    assert counters(writer) == (0, [1, 2], [0])
    writer.note_applied(1, "7-0")

    submit(writer, 1)


async def test_all_writers_of_a_store_share_one_budget() -> None:
    size = append().size
    budget = Budget(2 * size)
    first, second = (new_writer(THREAD, budget, max_tasks=MANY) for _ in range(2))
    queue(first, append())
    queue(second, append())

    with pytest.raises(ResourceExhausted, match=f"{2 * size} bytes of tasks wait to be applied"):
        queue(second, append())
    assert budget.used == 2 * size
    assert first.refuse(FULL)

    queue(second, append())
    assert budget.used == 2 * size


async def test_a_closed_writer_keeps_no_task_that_redis_holds(writer: Writer, budget: Budget) -> None:
    submit(writer, 3)
    writer.take(2)
    writer.accept(1, "7-0", 1)

    writer.close()

    assert counters(writer) == (1, [], [2, 0])
    writer.take(2)
    writer.accept(3, "8-0", 2)
    assert (counters(writer), budget.used) == ((3, [], []), 0)


async def test_a_closed_writer_reports_no_task_as_applied(writer: Writer) -> None:
    submit(writer, 1)
    writer.take(1)
    writer.accept(1, "7-0", 1)

    writer.close()

    assert writer.applied == START


@pytest.mark.parametrize("how", ["applied", "refused", "dropped", "closed"])
async def test_every_way_to_end_a_task_returns_its_share_of_the_budget(
    writer: Writer, budget: Budget, how: str
) -> None:
    submit(writer, 2)
    writer.take(2)
    match how:
        case "applied":
            writer.accept(2, "7-1", 2)
            writer.note_applied(2, "7-1")
        case "refused":
            assert writer.refuse(FULL)
            assert writer.refuse(FULL)
        case "dropped":
            writer.drop_all(FULL)
        case _:
            writer.close()
            writer.accept(2, "7-1", 2)

    assert budget.used == 0


STEPS = ("submit", "submit pair", "number", "accept", "apply", "refuse", "rewind")


@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=40))
def test_counters_have_no_gaps_and_the_budget_equals_the_size_of_the_kept_tasks(steps: list[tuple[str, int]]) -> None:
    """No promised task is lost, and no two tasks that Redis may hold have the same counter."""

    async def run() -> None:
        budget = Budget(1_000_000)
        writer = new_writer(THREAD, budget, max_tasks=MANY)
        kept: list[Submission] = []
        for step, number in steps:
            promised = {s.order for s in kept if s.accepted.done()}
            match step:
                case "submit":
                    submit(writer, 1)
                case "submit pair":
                    queue_pair(writer)
                case "number":
                    writer.take(number)
                case "accept":
                    numbered = [s.last for s in writer.queue if s.n]
                    last = min(writer.last_accepted + number, max(numbered, default=0))
                    writer.accept(last, f"{last}-0", 0)
                case "apply":
                    writer.note_applied(min(writer.floor + number, writer.last_accepted), "1-0")
                case "refuse" if writer.queue:
                    writer.refuse(FULL)
                case "rewind":
                    writer.rewind(max(writer.floor, writer.last_accepted - number))
                case _:
                    pass
            before, kept = {s.order for s in kept}, [*writer.unapplied, *writer.queue]
            gone = before - {s.order for s in kept}
            assert not gone or step == "apply" or (step == "refuse" and not gone & promised)
            assert budget.used == sum(s.size for s in kept)
            assert [s.order for s in kept] == sorted(s.order for s in kept)
            held = [n for s in writer.unapplied for n in range(s.n, s.last + 1)]
            assert held == list(range(writer.floor + 1, writer.last_accepted + 1))
        writer.drop_all(FULL)
        writer.note_applied(writer.last_accepted, "1-0")
        assert budget.used == 0

    asyncio.run(run())
