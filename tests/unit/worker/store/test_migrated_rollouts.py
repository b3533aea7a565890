"""codex rewrites a legacy rollout as a paginated one: nothing of ours is lost, whatever happens in between."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.worker.builders import AT, Mail, Store, append_bytes, item_line, killed, message_line, opened_store
from tests.unit.worker.migration import migrate, said
from tests.unit.worker.paginated import Rollout
from tests.unit.worker.store.test_files_suffice import World, step

from livethread.metadata import GitInfoPatch, MemoryMode, StoredThread, ThreadMetadataPatch
from livethread_worker.store.files import originals
from livethread_worker.store.files.home import other_form
from livethread_worker.store.upkeep.compress_cold import compress_cold
from livethread_worker.store.upkeep.doctor import FaultKind, examine
from livethread_worker.store.upkeep.importing.rollouts import import_rollouts
from livethread_worker.store.upkeep.importing.sources import Search
from livethread_worker.store.upkeep.rebuild import rebuild
from livethread_worker.store.upkeep.refresh import Refresher
from livethread_worker.store.write.outcome import OutcomeKind

PATCH = ThreadMetadataPatch(
    model="patched",
    thread_source="nightly",
    title="A title",
    name="A name",
    git_info=GitInfoPatch(branch="b1"),
    memory_mode=MemoryMode.DISABLED,
)


@pytest.fixture
def mail() -> Mail:
    return Mail(1)


def at(seconds: int) -> Any:
    return AT + timedelta(seconds=seconds)


def write_thread(store: Store, mail: Mail) -> None:
    """Write a thread with an idempotency key, an explicit patch, and a fact before and after it."""
    store.apply(
        mail,
        mail.create(cwd="/work", thread_source="automation"),
        *mail.live(item_line("turn_context", {"model": "m"}, at(1)), message_line("one", at(1)), key="k1"),
        mail.patch(PATCH),
        *mail.live(message_line("two", at(2)), item_line("turn_context", {"effort": "high"}, at(2))),
    )


def without_mode(thread: StoredThread) -> StoredThread:
    return thread.model_copy(update={"history_mode": None})


def read(store: Store, mail: Mail) -> StoredThread:
    Refresher(store.home, store.index).refresh(mail.thread_id)
    return store.thread(mail)


def lose_index(store: Store) -> None:
    store.drop_index()
    rebuild(store.home, store.index)


def nothing(_: Store) -> None:
    pass


@pytest.mark.parametrize("before", [nothing, lose_index])
@pytest.mark.parametrize("after", [nothing, lose_index])
@pytest.mark.parametrize("later", [nothing, lose_index])
def test_metadata_and_idempotency_keys_survive_with_and_without_the_index(
    store: Store, mail: Mail, before: Any, after: Any, later: Any
) -> None:
    write_thread(store, mail)
    known = store.thread(mail)

    before(store)
    migrate(store.path(mail))
    after(store)
    migrated = read(store, mail)
    store.apply(mail, mail.append("repeated", key="k1", writer="w2"), mail.append("three", writer="w2"))
    later(store)
    store.apply(mail, mail.append("repeated", key="k1", writer="w3"))

    assert without_mode(migrated) == known
    assert migrated.history_mode == "paginated"
    assert said(store.path(mail)) == ["one", "two", "three"]
    assert [record["ordinal"] for record in store.records(mail)] == list(range(len(store.records(mail))))
    assert (read(store, mail).model, read(store, mail).thread_source) == ("patched", "nightly")
    assert list(store.home.originals.iterdir()) == []


def test_what_the_index_had_not_stored_is_recognized(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("one"))
    late = mail.append("two"), mail.patch(PATCH)
    with killed(store.index, "commit"):
        store.apply(mail, *late)

    migrate(store.path(mail))
    outcome = store.apply(mail, *late, mail.append("three"))

    assert outcome.kind is OutcomeKind.DONE
    assert said(store.path(mail)) == ["one", "two", "three"]
    assert read(store, mail).model == "patched"


def test_a_half_written_append_is_completed(store: Store, mail: Mail) -> None:
    store.apply(mail, mail.create(), mail.append("one"))
    path, late = store.path(mail), mail.append("two", "three")
    with killed(store.index, "commit"):
        store.apply(mail, late)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))  # in place

    migrate(path)
    store.apply(mail, late)

    assert said(path) == ["one", "two", "three"]


def test_what_codex_appends_after_it_rewrote_the_rollout_counts(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    path = migrate(store.path(mail))
    append_bytes(path, item_line("turn_context", {"model": "codex"}, at(9)) + b"\n")

    assert (read(store, mail).model, read(store, mail).thread_source) == ("codex", "nightly")
    store.apply(mail, mail.append("three", writer="w2"))
    lose_index(store)

    assert (store.thread(mail).model, store.thread(mail).thread_source) == ("codex", "nightly")


@pytest.mark.parametrize("dies_at", ["commit", "forget"])
def test_a_worker_that_dies_carrying_over_leaves_nothing_twice(store: Store, mail: Mail, dies_at: str) -> None:
    write_thread(store, mail)
    known = store.thread(mail)
    path, late = migrate(store.path(mail)), mail.append_lines(message_line("three", at(3)))

    with killed(*{"commit": (store.index, "commit"), "forget": (originals, "forget")}[dies_at]):
        store.apply(mail, late)
    store.apply(mail, late)

    assert [record["type"] for record in store.records(mail)].count("thread_metadata") == 1
    assert said(path) == ["one", "two", "three"]
    assert without_mode(read(store, mail)) == known.model_copy(update={"updated_at": at(3)})
    assert list(store.home.originals.iterdir()) == []


def test_a_compressed_rollout_keeps_its_original(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    known, path = store.thread(mail), store.path(mail)
    # The clock sets a file's times, but the thread's own time decides whether it is cold.
    assert compress_cold(store.home, store.index, AT + timedelta(days=9_999))["threads"] == 1
    assert [kept.name for kept in store.home.originals.iterdir()] == [other_form(path).name]

    migrate(store.path(mail))
    lose_index(store)

    assert without_mode(store.thread(mail)) == known.model_copy(update={"rollout_path": other_form(path)})
    store.apply(mail, mail.append("repeated", key="k1", writer="w2"), mail.append("three", writer="w2"))
    assert said(store.path(mail)) == ["one", "two", "three"]


def test_an_archived_thread_keeps_when_it_was_archived(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    store.apply(mail, mail.archive(at=at(5)))

    migrate(store.path(mail))
    lose_index(store)

    assert store.thread(mail).archived_at == at(5)


def test_the_copy_of_a_home_has_originals_that_are_linked_again(store: Store, mail: Mail) -> None:
    """``cp -r`` makes two files of a rollout and its original; the one in the home goes on."""
    write_thread(store, mail)
    path = store.path(mail)
    kept = store.home.originals / path.name
    kept.unlink()
    kept.write_bytes(path.read_bytes())

    store.apply(mail, mail.append("three", key="k2"))
    migrate(path)
    lose_index(store)
    store.apply(mail, mail.append("repeated", key="k2", writer="w2"))

    assert said(path) == ["one", "two", "three"]


def test_without_hard_links_counters_and_idempotency_keys_stay_in_the_index(
    store: Store, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    write_thread(store, mail)
    late = mail.append("three")
    store.apply(mail, late)

    migrate(store.path(mail))
    store.apply(mail, late, mail.append("repeated", key="k1", writer="w2"), mail.append("four", writer="w2"))

    assert said(store.path(mail)) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("is_read_first", [True, False])
def test_a_thread_that_codex_reverts_after_it_rewrote_the_rollout_keeps_everything(
    store: Store, mail: Mail, is_read_first: bool
) -> None:
    write_thread(store, mail)
    known, late = store.thread(mail), mail.append("four")
    rewritten = Rollout(store.home, mail.thread_id, {})
    lines = migrate(rewritten.path).read_bytes().splitlines(keepends=True)
    [second] = [number for number, line in enumerate(lines) if b'"two"' in line]
    rewritten.starts["two"] = second, sum(map(len, lines[:second]))
    reverted = rewritten.reverted("two").turn("t3", "three", "said")

    if is_read_first:
        read(store, mail)
    store.apply(mail, late, mail.append("repeated", key="k1", writer="w2"))
    lose_index(store)
    store.apply(mail, late, mail.append("repeated", key="k1", writer="w3"))

    assert said(reverted.path) == ["three", "four"]
    assert (store.thread(mail).model, store.thread(mail).thread_source) == (known.model, known.thread_source)
    assert FaultKind.REWRITTEN_FILE not in dict(kinds(store))
    store.apply(mail, mail.delete())
    assert list(store.home.originals.iterdir()) == []


@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_import_copies_what_the_home_had_not_carried_over(
    store: Store, mail: Mail, tmp_path: Path, *, is_compressed: bool
) -> None:
    write_thread(store, mail)
    known = store.thread(mail)
    if is_compressed:
        assert compress_cold(store.home, store.index, AT + timedelta(days=9_999))["threads"] == 1
    migrate(store.path(mail))
    search = Search()
    search.look(store.home.root)

    for other in opened_store(tmp_path / "other"):
        assert import_rollouts(other.home, other.index, search).imported == 1

        moved = known.model_copy(update={"rollout_path": other.path(mail)})
        assert without_mode(other.thread(mail)) == moved
        other.apply(mail, mail.append("repeated", key="k1", writer="w2"), mail.append("three", writer="w2"))
        assert said(other.path(mail)) == ["one", "two", "three"]
        assert list(other.home.originals.iterdir()) == []
    assert len(list(store.home.originals.iterdir())) == 1


def test_an_import_copies_no_original_that_is_no_longer_needed(store: Store, mail: Mail, tmp_path: Path) -> None:
    """``cp -r`` makes two files of a rollout and its original."""
    write_thread(store, mail)
    kept = store.home.originals / store.path(mail).name
    kept.unlink()
    kept.write_bytes(store.path(mail).read_bytes())
    search = Search()
    search.look(store.home.root)

    for other in opened_store(tmp_path / "other"):
        assert import_rollouts(other.home, other.index, search).imported == 1
        assert list(other.home.originals.iterdir()) == []


def test_a_deleted_thread_leaves_no_original(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    migrate(store.path(mail))

    store.apply(mail, mail.delete())

    assert list(store.home.originals.iterdir()) == []


@pytest.mark.parametrize("change", [migrate, lambda _: None], ids=["migrated", "as it was"])
def test_a_thread_that_another_program_deletes_leaves_no_original(
    store: Store, mail: Mail, change: Callable[[Path], object]
) -> None:
    other = Mail(2)
    write_thread(store, mail)
    write_thread(store, other)
    store.index.mark_complete()
    change(store.path(mail))
    store.path(mail).unlink()

    Refresher(store.home, store.index).refresh_all()

    assert store.index.thread_ids() == [other.thread_id]
    assert originals.of_threads(store.home, {mail.thread_id, other.thread_id}) == [
        store.home.originals / store.path(other).name
    ]


@pytest.mark.parametrize("is_archived", [False, True])
def test_originals_stay_while_the_folder_of_their_rollouts_is_away(
    store: Store, mail: Mail, *, is_archived: bool
) -> None:
    write_thread(store, mail)
    store.index.mark_complete()
    if is_archived:
        store.apply(mail, mail.archive())
    kept = store.home.originals / store.path(mail).name
    folder = store.home.archived_sessions if is_archived else store.home.sessions
    folder.rename(store.home.root / "away")

    Refresher(store.home, store.index).refresh_all()

    assert store.index.thread_ids() == [mail.thread_id]
    assert kept.exists()
    if not is_archived:
        assert FaultKind.ORIGINAL_WITHOUT_FILE not in dict(kinds(store, fix=True))
        assert kept.exists()


# -- what doctor says --------------------------------------------------------------------------------------


def kinds(store: Store, *, fix: bool = False) -> list[tuple[FaultKind, bool]]:
    return [(fault.kind, fault.repair is not None) for fault in examine(store.home, fix=fix).faults]


def lose_originals(store: Store) -> None:
    for path in store.home.originals.iterdir():
        path.unlink()


@pytest.mark.parametrize("is_read", [True, False])
def test_doctor_finds_no_fault_while_the_original_exists(store: Store, mail: Mail, is_read: bool) -> None:
    write_thread(store, mail)
    store.index.mark_complete()
    migrate(store.path(mail))
    if is_read:
        read(store, mail)

    assert kinds(store, fix=True) == ([] if is_read else [(FaultKind.LENGTH_MISMATCH, True)])
    assert kinds(store) == []


def test_without_the_original_doctor_writes_into_the_rollout_what_the_index_knows(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    store.index.mark_complete()
    known = store.thread(mail)
    lose_originals(store)
    migrate(store.path(mail))

    assert kinds(store, fix=True) == [(FaultKind.REWRITTEN_FILE, True)]
    assert kinds(store) == []
    lose_index(store)

    assert without_mode(store.thread(mail)) == known
    store.apply(mail, mail.append("repeated", key="k1", writer="w2"))
    assert said(store.path(mail)) == ["one", "two"]


@pytest.mark.parametrize("fix", [True, False])
def test_without_the_original_and_the_index_doctor_says_what_is_lost(store: Store, mail: Mail, fix: bool) -> None:
    write_thread(store, mail)
    lose_originals(store)
    migrate(store.path(mail))
    lose_index(store)

    assert kinds(store, fix=fix) == [(FaultKind.REWRITTEN_FILE, False)]
    store.apply(mail, mail.append("three", writer="w2"))
    assert kinds(store) == [(FaultKind.REWRITTEN_FILE, False)]


def test_a_thread_that_codex_began_and_migrated_is_not_a_fault(store: Store, mail: Mail) -> None:
    store.write_rollout(mail.thread_id, message_line("one"))
    migrate(store.path(mail))
    rebuild(store.home, store.index)

    assert FaultKind.REWRITTEN_FILE not in dict(kinds(store))


def test_a_rollout_that_goes_to_the_quarantine_leaves_no_original(store: Store, mail: Mail) -> None:
    path = store.home.new_rollout(mail.thread_id, AT)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no record\n")
    originals.link(store.home, path)

    assert FaultKind.ORIGINAL_WITHOUT_FILE not in dict(kinds(store, fix=True))
    assert store.quarantined() == [b"no record\n"]
    assert list(store.home.originals.iterdir()) == []


def test_a_damaged_original_is_kept_in_the_quarantine(store: Store, mail: Mail) -> None:
    write_thread(store, mail)
    lose_originals(store)
    migrate(store.path(mail))
    damaged = store.home.originals / other_form(store.path(mail)).name
    damaged.write_bytes(b"garbage")
    damaged.chmod(0o600)

    found = kinds(store, fix=True)

    assert found[0] == (FaultKind.DAMAGED_FILE, True)
    assert store.quarantined() == [b"garbage"]
    assert kinds(store) == []


# -- any order of events -----------------------------------------------------------------------------------


class MigratedWorld(World):
    """A world in which codex rewrites the rollout, and each append says something of its own."""

    said = 0

    def say(self, session: int, key: str | None = None) -> None:
        self.said += 1
        self.append(session, [("event_msg", {"type": "user_message", "message": f"#{self.said}"})], key)

    def expected(self) -> list[str]:
        """Return the messages of the mailbox, without those that repeat an idempotency key."""
        taken: set[str | None] = set()
        texts = []
        for entry in self.mailbox:
            key = getattr(entry.task.header, "idempotency_key", None)
            if (key is None or key not in taken) and entry.task.lines and b'"user_message"' in entry.task.lines[0]:
                texts.append(entry.task.lines[0].split(b'"message":"')[1].split(b'"')[0].decode())
            taken.add(key)
        return texts


SESSION = st.integers(0, 2)
STEPS = [
    step("say", SESSION),
    step("say", SESSION, st.sampled_from(["k1", "k2"])),
    step("patch", st.integers(0, 3), st.sampled_from([PATCH, ThreadMetadataPatch(model="other", name=None)])),
    step("append", SESSION, st.just([("turn_context", {"model": "m"})])),
    step("tick", st.integers(1, 9)),
    step("resume", SESSION),
    step("archive"),
    step("unarchive"),
    step("apply", st.integers(1, 6), again=st.integers(0, 4)),
    step("crash", st.integers(1, 6)),
    step("lose_index"),
    step("rebuild"),
    step("refresh"),
    step("reach_the_disk"),
    step("power_cut"),
]


@settings(max_examples=40, derandomize=True)
@given(st.lists(st.one_of(STEPS), max_size=15), st.lists(st.one_of(STEPS), max_size=15))
def test_in_any_order_of_events_each_append_counts_once_and_a_rebuild_changes_nothing(
    before: list[Any], after: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            world = MigratedWorld(store, creation={"cwd": "/work", "thread_source": "user"})
            for method, arguments, named in [*before, ("migrate", (), {}), *after]:
                getattr(world, method)(*arguments, **named)
            world.finish()

            assert said(store.path(world.mail)) == world.expected()
            known = world.everything()
            store.drop_index()
            rebuild(store.home, store.index)
            assert world.everything() == known
        finally:
            store.close()
