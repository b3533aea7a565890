from __future__ import annotations

import pytest
from tests.unit.worker.builders import ODD_ITEMS, Mail, Store, append_bytes, killed, message_line, numbered

from livethread_worker.store.write.outcome import Outcome, OutcomeKind
from livethread_worker.store.write.thread_work import number_line

DONE = OutcomeKind.DONE


def test_a_crash_at_any_byte_of_a_write_is_repaired(store: Store) -> None:
    """Whole lines are recognized, a torn one is quarantined, missing ones are written."""
    first, second = message_line("héllo"), message_line("world")
    task = numbered("1002-0", "w1", 2)
    expected = number_line(first, 1, task) + number_line(second, 2, task)

    for written in range(len(expected) + 1):
        mail = Mail(1_000 + written)
        store.apply(mail, mail.create())
        size = store.path(mail).stat().st_size
        append_bytes(store.path(mail), expected[:written])

        outcome = store.apply(mail, mail.append("héllo", "world"))

        assert outcome == Outcome(DONE, "1002-0")
        assert store.path(mail).read_bytes()[size:] == expected, f"after {written} bytes"


def test_lines_written_before_a_crash_are_recognized(store: Store, mail: Mail) -> None:
    """The worker is killed between the write and the commit."""
    store.apply(mail, mail.create())
    append = mail.append("a", "b")

    with killed(store.index, "commit"):
        store.apply(mail, append)
    assert store.texts(mail) == ["a", "b"]

    assert store.apply(mail, append, mail.append("c")) == Outcome(DONE, "1003-0")

    assert store.texts(mail) == ["a", "b", "c"]
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ODD_ITEMS.values(), ids=list(ODD_ITEMS))
def test_no_odd_item_holds_up_any_thread(store: Store, mail: Mail, other: Mail, line: bytes) -> None:
    outcomes = store.apply_batch({
        mail.thread_id: [mail.create(), mail.append_lines(line), mail.append("a")],
        other.thread_id: [other.create(), other.append("b")],
    })

    assert outcomes == {mail.thread_id: Outcome(DONE, "1003-0"), other.thread_id: Outcome(DONE, "1002-0")}
