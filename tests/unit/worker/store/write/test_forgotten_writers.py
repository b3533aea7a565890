"""The index keeps a bounded number of writers for a thread, and still recognizes every task of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pytest
from tests.unit.worker import paginated
from tests.unit.worker.builders import Mail, Store, message_line

from livethread.metadata import ThreadMetadataPatch
from livethread.ordered_tasks import MailboxEntry
from livethread_config import names
from livethread_worker.store.files.home import Home
from livethread_worker.store.thread_state import ThreadState
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.write import open_rollout
from livethread_worker.store.write.outcome import OutcomeKind

WRITERS = 400
LONG_AGO = 1_700_000_000_000


def opened(n: int) -> str:
    """Return the id of the thread's writer number *n*."""
    return names.writer_id(f"{n:012x}", LONG_AGO + n)


@pytest.fixture
def mail(store: Store) -> Mail:
    """A thread that many writers have opened, one after the other."""
    mail = Mail()
    store.apply(mail, mail.create(opened(0)))
    return mail


def write(store: Store, mail: Mail, writers: list[str]) -> list[MailboxEntry]:
    """Have each of *writers* append in a batch of its own, and return the entries."""
    entries = []
    for writer in writers:
        entries.append(mail.append(f"by {writer}", f"also by {writer}", writer=writer))
        assert store.apply(mail, entries[-1]).kind is OutcomeKind.DONE
    return entries


def rows(store: Store) -> int:
    return int(store.index.db.execute("SELECT count(*) FROM writers").fetchone()[0])


def again(entry: MailboxEntry) -> MailboxEntry:
    """Return *entry* as a client repeats it that does not know whether Redis accepted it: at a new position."""
    return entry._replace(position="9000000-0")


@pytest.mark.parametrize("is_rebuilt", [False, True])
def test_a_thread_keeps_few_writers_and_applies_no_task_twice(store: Store, mail: Mail, *, is_rebuilt: bool) -> None:
    entries = write(store, mail, [opened(n) for n in range(WRITERS)])
    if is_rebuilt:
        store.drop_index()
        rebuild(store.home, store.index)
    before = store.path(mail).read_bytes()

    assert 128 <= rows(store) <= 256
    for entry in entries[::37]:
        for repeated in (entry, again(entry)):
            assert store.apply(mail, repeated).kind is OutcomeKind.DONE
    assert store.path(mail).read_bytes() == before
    assert rows(store) <= 256


def test_a_forgotten_writer_continues_after_its_last_task(store: Store, mail: Mail) -> None:
    [first, *_] = write(store, mail, [opened(n) for n in range(WRITERS)])

    store.apply(mail, again(first), mail.append("after all", writer=opened(0)))

    assert store.texts(mail)[-2:] == [f"also by {opened(WRITERS - 1)}", "after all"]
    assert store.numbering(mail)[-1] == (2 * WRITERS + 1, f"{opened(0)}:3")


def test_a_writer_without_a_time_in_its_id_is_recognized_too(store: Store, mail: Mail) -> None:
    foreign = write(store, mail, ["another-program", "job.last", "no.g"])
    write(store, mail, [opened(n) for n in range(WRITERS)])
    before = store.path(mail).read_bytes()

    for entry in foreign:
        assert store.apply(mail, again(entry)).kind is OutcomeKind.DONE

    assert store.path(mail).read_bytes() == before


def test_a_forgotten_writer_is_recognized_by_lines_that_a_revert_took_back(store: Store) -> None:
    mail = Mail()
    original = paginated.begin(store.home, mail.thread_id).turn("t1", "keep apples", "apples kept")
    store.read_in(mail.thread_id)
    [first] = write(store, mail, [opened(0)])
    reverted = original.reverted("t1")
    write(store, mail, [opened(n) for n in range(1, WRITERS)])
    before = original.path.read_bytes(), reverted.path.read_bytes()

    assert store.apply(mail, again(first)).kind is OutcomeKind.DONE

    assert (original.path.read_bytes(), reverted.path.read_bytes()) == before
    assert rows(store) <= 256


def test_a_forgotten_writers_tasks_without_lines_have_no_second_effect(store: Store, mail: Mail) -> None:
    writer = names.writer_id("aaaaaaaaaaaa", LONG_AGO)
    tasks = [
        mail.append("keyed", writer=writer, key="k"),
        mail.append("keyed again", writer=writer, key="k"),
        *mail.live(message_line("its title"), writer=writer),
        mail.patch(ThreadMetadataPatch(title="explicit"), writer=writer),
        mail.archive(writer=writer),
        mail.unarchive(writer=writer),
    ]
    store.apply(mail, *tasks)
    write(store, mail, [opened(n) for n in range(WRITERS)])
    store.apply(mail, mail.patch(ThreadMetadataPatch(title="newer"), writer=opened(WRITERS)))
    before, thread = store.path(mail).read_bytes(), store.thread(mail)

    for task in tasks:
        assert store.apply(mail, again(task)).kind is OutcomeKind.DONE

    assert store.path(mail).read_bytes() == before
    assert store.thread(mail) == thread


@pytest.fixture
def never_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the threads whose rollouts are read for forgotten counters."""
    read: list[str] = []

    def note(home: Home, state: ThreadState, file: BinaryIO) -> None:
        read.append(state.thread_id)

    monkeypatch.setattr(open_rollout, "read_what_is_left", note)
    yield read
    assert read == []


def test_new_writers_and_active_ones_cost_no_look_at_the_rollout(
    store: Store, mail: Mail, never_read: list[str]
) -> None:
    """An old writer that stays active keeps its row."""
    for n in range(WRITERS):
        store.apply(mail, mail.append("from the first", writer=opened(0)), mail.append("new", writer=opened(n + 1)))
