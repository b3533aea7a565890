"""Which threads may have changed: hints for their watchers.

A hint may come late, twice, or without a change. A watcher reads after each hint, so it also finds what it missed before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from livethread.errors import Unavailable

#: Calls `Changes.note` as long as it runs. It may miss changes that came before its first note of the thread.
Source = Callable[["Changes"], Coroutine[Any, Any, None]]


class Changes:
    """Wakes the watchers of one store's threads.

    *sources* run while a thread is watched, each once for all watchers.
    """

    def __init__(self, *sources: Source, poll_interval: float | None = None) -> None:
        #: Seconds after which a watcher reads without a hint; None: never.
        self.poll_interval = poll_interval
        self._sources = sources
        self._tasks: list[asyncio.Task[None]] = []
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._is_closed = False

    @property
    def thread_ids(self) -> Collection[str]:
        """The threads that are watched."""
        return self._watchers.keys()

    def note(self, thread_id: str) -> None:
        """Wake the watchers of a thread."""
        for changed in self._watchers.get(thread_id, ()):
            changed.set()

    def note_all(self) -> None:
        """Wake all watchers."""
        for thread_id in self._watchers:
            self.note(thread_id)

    @contextmanager
    def watching(self, thread_id: str) -> Iterator[asyncio.Event]:
        """Watch a thread within the block: the event is set when it may have changed."""
        changed = asyncio.Event()
        self._watchers.setdefault(thread_id, set()).add(changed)
        if not self._tasks:
            self._tasks = [asyncio.create_task(source(self)) for source in self._sources]
            for task in self._tasks:
                task.add_done_callback(lambda _: self.note_all())  # a source that fails, fails its watchers
        try:
            yield changed
        finally:
            self._watchers[thread_id].remove(changed)
            if not self._watchers[thread_id]:
                del self._watchers[thread_id]
            if not self._watchers:
                self._stop()

    async def wait(self, changed: asyncio.Event, at_most: float | None = None) -> None:
        """Wait for a hint, or for *at_most* seconds; by default for `poll_interval`. Raises as `require_ongoing`."""
        self.require_ongoing()
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most or self.poll_interval):
                await changed.wait()

    def require_ongoing(self) -> None:
        """Check that the current task's watch goes on.

        Raises:
            CancelledError: the task was cancelled, and a read swallowed it, as redis-py does if a reply comes at that moment.
            Unavailable: the store was closed.
        """
        if (watcher := asyncio.current_task()) is not None and watcher.cancelling():
            raise asyncio.CancelledError
        for task in self._tasks:
            if task.done():
                task.result()
        if self._is_closed:
            raise Unavailable(
                "the store was closed, which ends the watch: open another one, and watch from the cursor"
            )

    async def aclose(self) -> None:
        """End all watchers."""
        self._is_closed = True
        self.note_all()
        tasks = self._stop()
        if tasks:
            await asyncio.wait(tasks)

    def _stop(self) -> list[asyncio.Task[None]]:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        return tasks
