"""The boundary between session code and storage.

A thread is addressed by its id alone; nothing else about it is a durable handle. `LocalThreadStore` writes
files and index in this process, `QueuedThreadStore` hands tasks to workers, `InMemoryThreadStore` serves
tests; `tests/store_spec` holds all of them to this contract.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from livethread import types
from livethread.metadata import StoredThread, StoredThreadHistory
from livethread.observers import Observers


class ThreadReader(Protocol):
    """The operations that change nothing.

    A read of one thread sees what this store had accepted of it before. A listing or a search shows threads as
    they stand: what is not applied yet is not in it.
    """

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return a thread's persisted items, in order.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
        """
        ...

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history where asked for.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
        """
        ...

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread whose rollout this is, by its path relative to the home or absolute within it.

        Raises:
            InvalidRequest: the path leads out of the home, or is no rollout's.
            ThreadNotFound: there is no such file, or the thread is archived and that was not asked for.
            Unsupported: the store keeps no files.
        """
        ...

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of threads."""
        ...

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads in which a text occurs."""
        ...

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns, without those that were rolled back.

        A cursor stays good while the thread grows: to follow `TurnPage.next_cursor` to its end meets every turn once.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
            InvalidRequest: the cursor is none of a thread's turns.
        """
        ...

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of a thread's items, or of those of one turn.

        A cursor stays good while the thread grows: to follow `ItemPage.next_cursor` to its end meets every item once.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
            InvalidRequest: the thread has no such turn, or the cursor is none of its items.
        """
        ...


@runtime_checkable
class ThreadStore(ThreadReader, Protocol):
    """Everything session code asks of storage.

    Operations of one thread take effect in the order in which they are called. Those that store something
    return a `Receipt` once they are ordered and accepted; `flush_thread` returns once they are durable.
    """

    @property
    def observers(self) -> Observers:
        """Where this store reports what happens to its threads."""
        ...

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread for appends. Nothing is stored before its first item or `persist_thread`.

        Raises:
            Conflict: the thread exists.
        """
        ...

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread for appends and return what is stored of it.

        Opened with ``exclusive``, it has everything that older writers in other stores had accepted, and they get
        `Conflict` for their later appends, patches and other changes.

        Raises:
            ThreadNotFound: no such thread, or it is archived and that was not asked for.
        """
        ...

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Append canonical items to an open thread: all of them, in order, or none.

        A raw append changes history, and ``updated_at``, alone. With ``metadata`` it is shorthand for calling
        `update_thread_metadata` right after it, with nothing in between: both are accepted or neither, and the patch has
        no effect if the append repeats an idempotency key. The receipt's position is that of the last of the two. The
        persistence policy is the caller's to apply (`LiveThread` does).

        Raises:
            ThreadNotFound: the thread is not open in this store.
            InvalidRequest: an item cannot be stored.
            ResourceExhausted: an item is too large, or the thread has too many unapplied tasks.
            Conflict: another position than the expected one was reached, or a newer exclusive writer took over.
            Unavailable: nothing answered in time.
        """
        ...

    async def persist_thread(self, params: types.PersistThreadParams) -> None:
        """Create the rollout of an open thread that has no item yet; otherwise do nothing.

        Raises:
            ThreadNotFound: the thread is not open in this store.
        """
        ...

    async def flush_thread(self, params: types.FlushThreadParams) -> None:
        """Return once everything accepted from this store is fsynced in the rollout and committed in the index.

        Raises:
            ThreadNotFound: the thread is not open in this store.
            ThreadParked: one of its tasks cannot be applied.
            Unavailable: it took longer than the timeout. Nothing is lost; flush again.
        """
        ...

    async def shutdown_thread(self, params: types.ShutdownThreadParams) -> None:
        """Flush the thread and close its writer. A failed flush leaves the writer open."""
        ...

    async def discard_thread(self, params: types.DiscardThreadParams) -> None:
        """Close the writer; a thread without an accepted task leaves no file, row or key. Idempotent."""
        ...

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Apply a literal patch, in order with the thread's appends. The thread need not be open.

        Raises:
            ThreadNotFound: no such thread, or it is not open, archived, and that was not asked for.
        """
        ...

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Archive a thread, in order with its appends; to archive it again changes nothing.

        The thread need not be open, and handles that are open stay so: what they append is stored, and the thread
        stays archived until it is unarchived.

        Raises:
            ThreadNotFound: no such thread.
        """
        ...

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Make an archived thread active again, in order with its appends; one that is active stays as it is.

        Raises:
            ThreadNotFound: no such thread.
        """
        ...

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Delete a thread, archived or not: its history, its names and its metadata, in order with its appends.

        What was accepted before goes with it. Whatever is asked of the thread from then on is
        answered with `ThreadNotFound`, by handles that are open, too. Threads that it spawned stay as they are; their
        ``parent_thread_id`` then names nobody. Do not use the id again: a store whose tasks travel refuses it while
        tasks of the deleted thread may still be on their way.

        Raises:
            ThreadNotFound: no such thread.
        """
        ...
