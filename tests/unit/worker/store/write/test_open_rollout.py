"""Finding and opening a rollout, and reading what crashes and other programs left in it."""

from __future__ import annotations

import json
import os
import stat

import pytest
from tests.unit.worker.builders import Mail, Store, append_bytes, item_line, killed, message_line

from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write.outcome import Outcome, OutcomeKind

DONE, POISONED = OutcomeKind.DONE, OutcomeKind.POISONED


def test_a_torn_tail_moves_to_the_quarantine(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    torn = '{"timestamp":"2026-11-22T12:00:00.000Z","type":"event_msg","payload":"é'.encode()[:-1]
    append_bytes(store.path(mail), torn)

    outcome = store.apply(mail, mail.append("b"))

    assert outcome.kind is DONE
    assert store.texts(mail) == ["a", "b"]
    assert store.quarantined() == [torn]
    assert [stat.S_IMODE(path.stat().st_mode) for path in store.home.quarantine.iterdir()] == [0o600]


def test_a_line_appended_to_a_truncated_rollout_starts_on_its_own_line(store: Store, mail: Mail) -> None:
    """Without fdatasync, a power loss can leave a rollout shorter than the index says."""
    store.apply(mail, mail.create(), mail.append("kept"), mail.append("lost"))
    os.truncate(store.path(mail), store.path(mail).stat().st_size - 10)

    outcome = store.apply(mail, mail.append("after"))

    assert outcome.kind is DONE
    lines = store.path(mail).read_bytes().splitlines()
    assert json.loads(lines[-1])["payload"]["message"] == "after"


def test_ordinals_count_foreign_lines(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("ours"))
    append_bytes(store.path(mail), message_line("codex's") + b"\n" + message_line("codex's too") + b"\n")

    outcome = store.apply(mail, mail.append("ours again"))

    assert outcome.kind is DONE
    assert store.texts(mail) == ["ours", "codex's", "codex's too", "ours again"]
    assert store.numbering(mail) == [(0, "w1:1"), (1, "w1:2"), (None, None), (None, None), (4, "w1:3")]


def test_foreign_lines_set_metadata(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    append_bytes(
        store.path(mail), message_line("from codex") + b"\n" + item_line("turn_context", {"model": "m"}) + b"\n"
    )

    store.apply(mail, mail.append("ours"))

    assert (store.thread(mail).title, store.thread(mail).model) == ("from codex", "m")


def test_a_foreign_last_line_without_a_newline_gets_one(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    append_bytes(store.path(mail), message_line("codex's"))

    store.apply(mail, mail.append("ours"))

    assert (store.texts(mail), store.quarantined()) == (["codex's", "ours"], [])


def test_a_last_line_without_a_newline_that_a_reader_indexed_gets_one(store: Store, mail: Mail) -> None:
    """The committed length then covers the whole file."""
    store.apply(mail, mail.create())
    append_bytes(store.path(mail), message_line("codex's"))
    Refresher(store.home, store.index).refresh(mail.thread_id)

    store.apply(mail, mail.append("ours"))

    assert (store.texts(mail), store.quarantined()) == (["codex's", "ours"], [])
    assert [ordinal for ordinal, _ in store.numbering(mail)] == [0, None, 2]


def test_appending_to_a_codex_thread_continues_its_rollout(store: Store, mail: Mail) -> None:
    path = store.home.sessions / "2025" / "01" / "02" / f"rollout-2025-01-02T03-04-05-{mail.thread_id}.jsonl"
    path.parent.mkdir(parents=True)
    meta = {"id": mail.thread_id, "timestamp": "2025-01-02T03:04:05.000Z", "cwd": "/c", "source": "vscode"}
    path.write_bytes(item_line("session_meta", meta) + b"\n" + message_line("codex's") + b"\n")

    outcome = store.apply(mail, mail.append("ours"))

    assert outcome == Outcome(DONE, "1001-0")
    assert (store.texts(mail), store.thread(mail).title) == (["codex's", "ours"], "codex's")
    assert store.numbering(mail)[-1] == (2, "w1:1")


def test_a_moved_rollout_is_found_again(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("a"))
    store.home.archived_sessions.mkdir()
    moved = store.path(mail).rename(store.home.archived_sessions / store.path(mail).name)

    outcome = store.apply(mail, mail.append("b"))

    assert outcome.kind is DONE
    assert (store.path(mail), store.texts(mail)) == (moved, ["a", "b"])
    assert store.thread(mail).rollout_path == moved


def test_a_missing_rollout_stops_only_its_own_thread(store: Store, mail: Mail, other: Mail) -> None:
    store.apply(mail, mail.create())
    store.path(mail).unlink()

    outcomes = store.apply_batch({
        mail.thread_id: [mail.append("a")],
        other.thread_id: [other.create()],
    })

    assert (outcomes[mail.thread_id].kind, outcomes[mail.thread_id].position) == (POISONED, None)
    assert "holds no rollout of it" in outcomes[mail.thread_id].reason
    assert outcomes[other.thread_id] == Outcome(DONE, "1001-0")


ODD_LINES = {
    "an ordinal beyond 64 bits": b'{"ordinal":%d,"type":"x","payload":1}' % 10**30,
    "a counter beyond 64 bits": b'{"ordinal":3,"seq":"w1:%d","type":"x","payload":1}' % 10**30,
    "a counter with too many digits for int": b'{"ordinal":3,"seq":"w1:'
    + b"9" * 5_000
    + b'","type":"x","payload":1}',
    "a time beyond the calendar": b'{"timestamp":"0001-01-01T00:00:00+14:00","type":"event_msg","payload":{"type":"x"}}',
    "a field named cls": b'{"type":"x","payload":1,"cls":1}',
    "an object as memory mode": b'{"type":"session_meta","payload":{"id":"%b","memory_mode":{}}}'
    % Mail(1).thread_id.encode(),
    "deep nesting and a long number": b'{"n":12345678901234567890,"d":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "a lone surrogate and a long number": b'{"type":"event_msg","n":12345678901234567890,'
    b'"payload":{"type":"user_message","message":"\\ud800"}}',
    "a lone surrogate as turn id": b'{"type":"event_msg","n":12345678901234567890,'
    b'"payload":{"type":"task_started","turn_id":"\\ud800"}}',
    "a lone surrogate as model": b'{"type":"turn_context","n":12345678901234567890,"payload":{"model":"\\ud800"}}',
    "invalid UTF-8": b'{"type":"x","payload":"\xff"}',
    "garbage": b"\0garbage",
}


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=list(ODD_LINES))
def test_no_foreign_line_holds_up_any_thread(store: Store, mail: Mail, other: Mail, line: bytes) -> None:
    store.apply(mail, mail.create())
    append_bytes(store.path(mail), line + b"\n")

    outcomes = store.apply_batch({
        mail.thread_id: [mail.append("a")],
        other.thread_id: [other.create()],
    })

    assert {outcome.kind for outcome in outcomes.values()} == {DONE}
    assert message_line("a")[50:] in store.path(mail).read_bytes()


def test_the_first_message_sets_the_title_though_a_crash_left_lines_after_it(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create())
    append_bytes(store.path(mail), message_line("foreign") + b"\n")
    batch = [entry for text in ("ours", "others") for entry in mail.live(message_line(text), writer=text)]
    with killed(store.index, "commit"):
        store.apply(mail, *batch)

    store.apply(mail, *batch)

    assert store.thread(mail).title == "foreign"


@pytest.mark.parametrize("cut", [1, 5, 40, 200, 400])
def test_the_index_of_a_truncated_rollout_matches_what_is_left(store: Store, mail: Mail, cut: int) -> None:
    events = [
        item_line("event_msg", {"type": kind, "turn_id": f"t{n}", **({"message": f"m{n}"} if "user" in kind else {})})
        for n in range(3)
        for kind in ("task_started", "user_message", "task_complete")
    ]
    store.apply(mail, mail.create(), *(mail.append_lines(event) for event in events))
    os.truncate(store.path(mail), store.path(mail).stat().st_size - cut)

    assert store.apply(mail, mail.append("new")).kind is DONE

    ordinals = [ordinal for ordinal, _ in store.numbering(mail)]
    assert ordinals == list(range(len(ordinals)))
    known = store.thread(mail), store.index.turns(mail.thread_id, 0, 10, backward=False)
    store.drop_index()
    store.read_in(mail.thread_id)
    assert (store.thread(mail), store.index.turns(mail.thread_id, 0, 10, backward=False)) == known
