"""`ThreadManager`: one entry point for threads, loaded in this process or not."""

from __future__ import annotations

import asyncio

from livethread import types
from livethread.live_thread import LiveThread
from livethread.metadata import ThreadMetadataPatch
from livethread.store import ThreadStore


class ThreadManager:
    """Keeps the open threads of one process, and routes metadata changes.

    A change to a loaded thread goes through its `LiveThread`, after the changes pending there. A change to any other
    thread goes straight to the store. Either way, it is one task in the thread's order.
    """

    def __init__(self, store: ThreadStore, *, strict: bool = False, collect_git: bool = True) -> None:
        """*strict*: its threads refuse items of kinds that this release does not know.

        *collect_git*: a new thread takes its git metadata from its working directory; see `LiveThread.create`.
        """
        self._store = store
        self._collect_git = collect_git
        self._strict = strict
        self._loaded: dict[str, LiveThread] = {}

    async def create_thread(self, params: types.CreateThreadParams) -> LiveThread:
        """Open a new thread and keep it loaded."""
        created = await LiveThread.create(self._store, params, strict=self._strict, collect_git=self._collect_git)
        return self._load(created)

    async def resume_thread(self, params: types.ResumeThreadParams) -> LiveThread:
        """Return the loaded thread, or reopen it and keep it loaded. An exclusive opening always reopens it."""
        if (thread := self.get(params.thread_id)) and not params.exclusive:
            return thread
        resumed = await LiveThread.resume(self._store, params, strict=self._strict)
        if thread := self.get(params.thread_id):  # another call resumed it; both handles share one writer
            await resumed.discard()
            return thread
        return self._load(resumed)

    def get(self, thread_id: str) -> LiveThread | None:
        """Return the thread if it is loaded."""
        thread = self._loaded.get(thread_id)
        if thread is not None and not thread.is_open:
            del self._loaded[thread_id]
            return None
        return thread

    def loaded(self) -> tuple[LiveThread, ...]:
        """Return the loaded threads."""
        return tuple(filter(None, map(self.get, tuple(self._loaded))))

    async def update_thread_metadata(self, thread_id: str, patch: ThreadMetadataPatch) -> types.Receipt:
        """Apply *patch* to a thread, loaded or not.

        Raises:
            ThreadNotFound: the thread does not exist.
        """
        params = types.UpdateThreadMetadataParams(thread_id=thread_id, patch=patch)
        thread = self.get(params.thread_id)
        if thread is not None:
            return await thread.update_metadata(patch)
        return await self._store.update_thread_metadata(params)

    async def shutdown(self) -> None:
        """Flush and close all loaded threads concurrently.

        Raises:
            ExceptionGroup: some threads could not be flushed; they stay loaded.
        """
        outcomes = await asyncio.gather(*(thread.shutdown() for thread in self.loaded()), return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if errors:
            raise ExceptionGroup("some threads could not be shut down", errors)

    def _load(self, thread: LiveThread) -> LiveThread:
        self._loaded[thread.thread_id] = thread
        return thread
