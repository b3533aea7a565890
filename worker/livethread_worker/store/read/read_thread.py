"""One thread, by its id or by its rollout: from the index, or from the rollout if the index does not know it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from livethread import errors, types
from livethread.metadata import StoredThread
from livethread.thread_id import canonical_thread_id
from livethread_worker.store.files import name_index
from livethread_worker.store.files.home import Home, other_form
from livethread_worker.store.heirs import require_unneeded
from livethread_worker.store.index import Index
from livethread_worker.store.read.thread_file import Located, history_at
from livethread_worker.store.rollout_paths import require_rollout
from livethread_worker.store.upkeep.rebuild import read_state


def read_thread(home: Home, index: Index, params: types.ReadThreadParams) -> StoredThread:
    """Return a thread, with its history if *params* include it.

    Raises:
        ThreadNotFound: no such thread, or it is archived and the caller did not include archived ones.
        Conflict: *params* ask for a deletable thread, and other threads need it.
    """
    thread = index.read_thread(params.thread_id)
    if thread is None or thread.rollout_path is None or not thread.rollout_path.exists():
        known, thread = thread, _read_rollout(home, require_rollout(home, index, params.thread_id), params.thread_id)
        if known is not None:  # the rollout was moved
            thread = thread.model_copy(update={"position": known.position})
    if thread.archived_at is not None and not params.include_archived:
        raise errors.ThreadNotFound.of_archived(params.thread_id)
    if params.is_deletable:
        require_unneeded(home, index, params.thread_id)
    return _with_history(home, thread) if params.include_history else thread


def find_thread_by_name(
    home: Home, index: Index, names: name_index.NameCache, params: types.FindThreadByNameParams
) -> StoredThread:
    """Return the thread with a name; of several, the one that the name index names last, as in codex.

    Threads that the name index lacks come last; the index knows their names from their rollouts.

    Raises:
        ThreadNotFound: no thread has this name, or only archived ones have it and the caller did not include them.
    """
    known = names.names()
    named_last_first = [thread_id for thread_id in reversed(known) if known[thread_id] == params.name]
    others = [thread_id for thread_id in index.threads_named(params.name) if thread_id not in known]
    for thread_id in filter(canonical_thread_id, [*named_last_first, *others]):
        if thread_id in params.except_thread_ids:
            continue
        wanted = types.ReadThreadParams(thread_id=thread_id, include_archived=params.include_archived)
        with suppress(errors.ThreadNotFound):  # it has no rollout any more, or was never stored
            found = {"name": params.name, "named_at": names.named_at(thread_id)}
            return read_thread(home, index, wanted).model_copy(update=found)
    raise errors.ThreadNotFound(params.name, "no thread has this name")


def read_thread_by_rollout_path(
    home: Home, index: Index, params: types.ReadThreadByRolloutPathParams
) -> StoredThread:
    """Return the thread of the rollout at a path.

    Raises:
        InvalidRequest: the path leads out of the home, or does not name a rollout.
        ThreadNotFound: there is no such file, or it is archived and the caller did not include archived ones.
    """
    named = home.resolve(params.rollout_path)
    thread_id = home.thread_of(named)
    if thread_id is None:
        raise errors.InvalidRequest(f"{named.name!r} is not the name of a rollout")
    path = _present_form(named)
    if path is None:
        raise errors.ThreadNotFound(thread_id, f"there is no {params.rollout_path}")
    if home.is_archived(path) and not params.include_archived:
        raise errors.ThreadNotFound.of_archived(thread_id)
    thread, live = index.read_thread(thread_id), home.live_rollout(path)
    if home.generation(live) != home.generation(path):  # codex's thread/revert began a newer one
        path = live
    if thread is None or thread.rollout_path != path:
        thread = _read_rollout(home, path, thread_id)
    return _with_history(home, thread) if params.include_history else thread


def _present_form(path: Path) -> Path | None:
    """Return *path*, or its compressed or plain form if it changed since; None if neither exists."""
    return next((form for form in (path, other_form(path)) if form.is_file() or form.is_symlink()), None)


def _read_rollout(home: Home, path: Path, thread_id: str) -> StoredThread:
    """Return the thread that the rollout at *path* and the name index make.

    Raises:
        ThreadNotFound: the rollout has no ``session_meta`` of the thread.
    """
    state = read_state(home, thread_id, path, name_index.read_names(home))
    if state.thread is None:
        raise errors.ThreadNotFound(thread_id, f"{path.name} has no session_meta of its own")
    return state.thread


def _with_history(home: Home, thread: StoredThread) -> StoredThread:
    assert thread.rollout_path is not None
    located = Located(thread.rollout_path, thread.position)
    return thread.model_copy(update={"history": history_at(home, thread.thread_id, located)})
