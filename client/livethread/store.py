"""The contract between session code and storage.

A thread's id is its only durable handle. `LocalThreadStore` writes rollouts and index in this process,
`QueuedThreadStore` sends tasks to workers, `InMemoryThreadStore` serves tests; `tests/store_spec` holds all of them to
this contract.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, runtime_checkable

from livethread import types
from livethread.metadata import StoredModelContext, StoredThread, StoredThreadHistory
from livethread.observers import Observers


class ThreadReader(Protocol):
    """The operations that change nothing.

    A read of one thread includes every task that this store accepted before. Listings and searches show only what is
    applied. The result of a read of one thread, and each thread in a page, has the position that it shows.

    *params* can demand more: ``fresh=True``, everything that was accepted before the call from any store; ``at_least``, all
    tasks of the thread up to a position. The read then waits until workers have applied it, and raises

    - `Conflict`: the thread has no position ``at_least``, or it is not known whether that is applied.
    - `ThreadParked`: one of these tasks cannot be applied.
    - `Unavailable`: Redis does not answer, or they were not applied in time.
    """

    async def load_history(self, params: types.LoadThreadHistoryParams) -> StoredThreadHistory:
        """Return a thread's persisted items, in order.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
        """
        ...

    async def load_latest_model_context(self, params: types.LoadThreadHistoryParams) -> StoredModelContext:
        """Return the items from which the thread's latest model context is rebuilt.

        These are the ``session_meta`` and everything from the turn of the last compaction on, if codex's rule
        (`context_start`) allows it, or else the whole history. The time that it takes depends on
        what it returns, not on the length of the history.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
        """
        ...

    async def find_thread_by_name(self, params: types.FindThreadByNameParams) -> StoredThread:
        """Return the thread with this name; of several, the one that was named last, as in codex.

        Like a listing, it sees only what is applied unless *params* demand more.

        Raises:
            ThreadNotFound: no thread has this name, or only archived ones have it and *params* exclude them. Its
                ``thread_id`` is the name.
        """
        ...

    async def read_thread(self, params: types.ReadThreadParams) -> StoredThread:
        """Return a thread's metadata, and its history on request.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
        """
        ...

    async def read_thread_by_rollout_path(self, params: types.ReadThreadByRolloutPathParams) -> StoredThread:
        """Return the thread of the rollout at a path, relative to the home or absolute within it.

        Raises:
            InvalidRequest: the path leads out of the home, or does not name a rollout.
            ThreadNotFound: no such file, or the thread is archived and *params* exclude archived threads. The in-memory
                store has no files; it finds the thread by the id in the path's name.
        """
        ...

    async def list_threads(self, params: types.ListThreadsParams) -> types.ThreadPage:
        """Return one page of threads, of all homes.

        Raises:
            HomesUnavailable: some homes did not answer, and *params* do not allow a partial page.
        """
        ...

    async def search_threads(self, params: types.SearchThreadsParams) -> types.ThreadSearchPage:
        """Return one page of the threads that match a query.

        Raises:
            InvalidRequest: the query is blank, or the cursor is not from a page of this search.
            HomesUnavailable: some homes did not answer, and *params* do not allow a partial page.
        """
        ...

    async def search_occurrences(self, params: types.SearchOccurrencesParams) -> types.OccurrencePage:
        """Return one page of the occurrences of a term in the messages of a thread's turns, in order.

        Turns that were rolled back are left out. A cursor stays valid while the thread grows.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
            InvalidRequest: the term is blank, or the cursor is not from a page of occurrences.
        """
        ...

    async def list_turns(self, params: types.ListTurnsParams) -> types.TurnPage:
        """Return one page of a thread's turns, without turns that were rolled back.

        A cursor stays valid while the thread grows: following `TurnPage.next_cursor` to its end returns each turn once.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
            InvalidRequest: the cursor is not from a page of turns.
        """
        ...

    async def list_items(self, params: types.ListItemsParams) -> types.ItemPage:
        """Return one page of the items of a thread, or of one of its turns.

        A cursor stays valid while the thread grows: following `ItemPage.next_cursor` to its end returns each item once.
        `ItemPage.end_cursor` continues with the items that come later.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
            InvalidRequest: the thread has no such turn, or the cursor is not from a page of its items.
            Conflict: *params* begin after a position, and other programs wrote the thread, so that none is known.
        """
        ...

    async def prepare_fork(self, params: types.PrepareForkParams) -> types.PreparedFork:
        """Return what a fork of a thread begins with; nothing is reserved or stored.

        It includes everything that was accepted before from any store. `ThreadManager.fork_thread` calls it.

        Raises:
            ThreadNotFound: no such thread.
            InvalidRequest: the thread has no such turn, or the last turn of the fork has not ended.
        """
        ...


class WatchingReader(ThreadReader, Protocol):
    """The operations that change nothing, and a way to follow a thread."""

    def watch_thread(self, params: types.WatchThreadParams) -> AsyncGenerator[types.ThreadItem]:
        """Yield a thread's items from some place on, each once and in order; then those that are committed later.

        It goes on, whichever process writes the thread, until it is closed: while the thread is archived, compressed or
        rebuilt, and while workers or Redis are away. Closing it, or cancelling its consumer, leaves nothing. A store
        implements it with `livethread.watching.watch`, which needs only `list_items`.

        Raises:
            ThreadNotFound: no such thread, or it was deleted meanwhile.
            InvalidRequest: the cursor is not from a page of the thread's items.
            Conflict: another program took items back that were yielded, or rewrote them; or the place is not known.
            Unavailable: the first read was not answered, or the store was closed.
        """
        ...


@runtime_checkable
class ThreadStore(WatchingReader, Protocol):
    """Everything that session code needs from storage.

    Operations on one thread take effect in the order in which they are called. A change returns a `Receipt` once it is
    ordered and accepted; `flush_thread` returns once it is durable.
    """

    @property
    def observers(self) -> Observers:
        """The observers of this store's events."""
        ...

    async def create_thread(self, params: types.CreateThreadParams) -> None:
        """Open a new thread for appends. Nothing is stored before its first item or `persist_thread`.

        Raises:
            Conflict: the thread exists.
            InvalidRequest: it shares history with a thread in another home, or is attached to one.
        """
        ...

    async def resume_thread(self, params: types.ResumeThreadParams) -> StoredThread:
        """Open an existing thread for appends and return its metadata.

        With ``exclusive``, the opening fences older writers in other stores: tasks accepted from them come before it, and
        their later changes are refused with `Conflict`.

        Raises:
            ThreadNotFound: no such thread, or it is archived and *params* exclude archived threads.
        """
        ...

    async def append_items(self, params: types.AppendThreadItemsParams) -> types.Receipt:
        """Append canonical items to an open thread: all of them, in order, or none.

        An append without ``metadata`` changes only the history and ``updated_at``. With ``metadata`` it is shorthand for
        calling `update_thread_metadata` right after it, with nothing in between: both are accepted or neither, the
        receipt has the patch's position, and the patch has no effect if the append repeats an idempotency key. The
        caller applies the persistence policy, as `LiveThread` does.

        Raises:
            ThreadNotFound: the thread is not open in this store.
            InvalidRequest: an item cannot be stored.
            ResourceExhausted: an item is too large, or the thread has too many unapplied tasks.
            Conflict: the thread's last position is not the expected one, or a newer exclusive writer took over.
            Unavailable: Redis did not answer in time.
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
        """Close the writer; a thread without an accepted task leaves no file, row or Redis key. Idempotent."""
        ...

    async def update_thread_metadata(self, params: types.UpdateThreadMetadataParams) -> types.Receipt:
        """Apply a literal patch, in order with the thread's appends. The thread need not be open.

        Raises:
            ThreadNotFound: no such thread, or it is archived, not open, and *params* exclude archived threads.
        """
        ...

    async def archive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Archive a thread, in order with its appends; archiving it again changes nothing.

        The thread need not be open. Open handles stay open and can append; the thread stays archived until it is
        unarchived.

        Raises:
            ThreadNotFound: no such thread.
        """
        ...

    async def archive_threads(self, params: types.ArchiveThreadsParams) -> types.ThreadResults:
        """Archive several threads, each as `archive_thread` does, and return the result of each.

        A failure does not stop the others. Repeating the call is harmless.
        """
        ...

    async def unarchive_thread(self, params: types.ArchiveThreadParams) -> types.Receipt:
        """Make an archived thread active again, in order with its appends; an active thread does not change.

        Raises:
            ThreadNotFound: no such thread.
        """
        ...

    async def delete_thread(self, params: types.DeleteThreadParams) -> types.Receipt:
        """Delete a thread, archived or not: its history, its names and its metadata, in order with its appends.

        Tasks accepted before are deleted with it. Later operations raise `ThreadNotFound`, also through open handles.
        Threads that it spawned do not change: their ``parent_thread_id`` then names a missing thread. Do not reuse the
        id: a queued store refuses it while tasks of the deleted thread may still be in transit.

        Raises:
            ThreadNotFound: no such thread.
            Conflict: forks share its history, or are attached to it.
        """
        ...

    async def delete_threads(self, params: types.DeleteThreadsParams) -> types.ThreadResults:
        """Delete several threads, each as `delete_thread` does, and return the result of each.

        A failure does not stop the others. A missing thread counts as deleted, so the call can be repeated.
        """
        ...
