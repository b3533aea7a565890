"""`ThreadManager`: one entry point for threads, loaded in this process or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from livethread import types
from livethread.live_thread import LiveThread, LiveThreadInitGuard
from livethread.metadata import PAGINATED, StoredThread, ThreadMetadataPatch
from livethread.rollout.item import RolloutItem
from livethread.rollout.turn_ranges import end_of_fork
from livethread.store import ThreadStore

logger = logging.getLogger(__name__)

#: Fields that a sub-agent's thread takes from its parent unless the caller sets them.
_INHERITED: Final = ("session_id", "cwd", "model_provider", "originator", "cli_version", "memory_mode")

#: Fields that a fork takes from its source, likewise. A fork is a session of its own.
_FORKED: Final = ("cwd", "model_provider", "originator", "cli_version", "memory_mode")


@dataclass(frozen=True, slots=True)
class ThreadShutdownReport:
    """The result of a bounded shutdown for each thread; the ids are sorted."""

    #: Flushed, closed, and no longer loaded.
    completed: tuple[str, ...] = ()
    #: Still loaded, each with its error.
    failed: dict[str, Exception] = field(default_factory=dict)
    #: Still loaded: they were not flushed in time.
    timed_out: tuple[str, ...] = ()


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
        #: Parents of threads that this manager created; listings do not show threads without an item.
        self._parents: dict[str, str | None] = {}
        self._observers: dict[object, Callable[[LiveThread], None]] = {}

    async def create_thread(self, params: types.CreateThreadParams) -> LiveThread:
        """Open a new thread and keep it loaded."""
        thread = await self._create(params)
        self._announce(thread, params)
        return thread

    async def fork_thread(
        self,
        thread_id: str,
        params: types.CreateThreadParams | None = None,
        *,
        before_turn_id: str | None = None,
        through_turn_id: str | None = None,
    ) -> LiveThread:
        """Open a new thread that continues another one, its source, from some place on, and keep it loaded.

        By default, the fork begins with everything accepted for the source so far; or else with what came before
        *before_turn_id*, or with everything up to the end of *through_turn_id*. It is durable on return.

        A fork of a paginated thread copies no line: as in codex, its rollout says up to which place it shares the source's,
        and the source cannot be deleted before the fork. A fork of any other thread holds copies, appended in one task.

        The fork takes name, working directory, provider, client and memory mode from the source unless *params* set them,
        and the session's source unless it is a sub-agent's.

        Raises:
            ThreadNotFound: the source does not exist, or has no item yet.
            InvalidRequest: the source has no such turn, *through_turn_id* has not ended, or both turns are given.
            ResourceExhausted: the items to copy do not fit into one append; nothing was stored.
            Unavailable: Redis or the workers did not answer in time. The fork may exist later.
        """
        place = types.PrepareForkParams(
            thread_id=thread_id, before_turn_id=before_turn_id, through_turn_id=through_turn_id
        )
        fork = await self._store.prepare_fork(place)
        source = await self._store.read_thread(types.ReadThreadParams(thread_id=thread_id))
        params = _of_fork(source, fork, params or types.CreateThreadParams())
        items: tuple[RolloutItem, ...] = ()
        if not fork.is_shared:
            history = await self._store.load_history(types.LoadThreadHistoryParams(thread_id=thread_id))
            copied = history.items[: end_of_fork(history.items, place)]
            items = tuple(item for item in copied if item.type != "session_meta")
        thread = await self._create(params)
        async with LiveThreadInitGuard(thread) as guard:
            if items:
                await thread.append_items(items)
            await thread.persist()
            if source.name is not None:
                await thread.update_metadata(ThreadMetadataPatch(name=source.name))
            await thread.flush()
            guard.commit()
        self._announce(thread, params)
        return thread

    async def _create(self, params: types.CreateThreadParams) -> LiveThread:
        created = await LiveThread.create(self._store, params, strict=self._strict, collect_git=self._collect_git)
        return self._load(created)

    def _announce(self, thread: LiveThread, params: types.CreateThreadParams) -> None:
        self._parents[thread.thread_id] = params.parent_thread_id
        for observer in tuple(self._observers.values()):
            try:
                observer(thread)
            except Exception:
                logger.exception(
                    "an observer of created threads failed at thread %s",
                    thread.thread_id,
                    extra={"action": "create_thread", "thread_id": thread.thread_id},
                )

    async def spawn_subagent(
        self, parent_thread_id: str, params: types.CreateThreadParams | None = None
    ) -> LiveThread:
        """Open a new thread for a sub-agent of another thread, and keep it loaded.

        It takes session, working directory, provider, client and memory mode from the parent unless *params* set them. As
        in codex, its source names the parent, the depth, and the agent's nickname, role and path.

        Raises:
            ThreadNotFound: the parent does not exist, or has no item yet.
        """
        params = params or types.CreateThreadParams()
        parent = await self._store.read_thread(types.ReadThreadParams(thread_id=parent_thread_id))
        return await self.create_thread(_of_subagent(parent, params))

    def subscribe_thread_created(self, observer: Callable[[LiveThread], None]) -> Callable[[], None]:
        """Call *observer* with each thread that this manager creates from now on; return a function that stops it.

        Observers run in the event loop and must not block. An observer that raises is logged; the others still run.
        """
        subscription = object()
        self._observers[subscription] = observer
        return lambda: self._observers.pop(subscription, None) and None

    async def list_agent_subtree_thread_ids(self, thread_id: str) -> list[str]:
        """Return *thread_id* and the threads that it spawned, directly or indirectly, including archived ones.

        Applied threads come first, from the oldest on, then loaded threads that no listing shows yet.
        """
        found = dict.fromkeys([types.ReadThreadParams(thread_id=thread_id).thread_id])
        stored: list[StoredThread] = []
        for archived in (False, True):
            stored += await self._descendants(thread_id, archived=archived)
        found |= dict.fromkeys(
            thread.thread_id for thread in sorted(stored, key=lambda thread: (thread.created_at, thread.thread_id))
        )
        for thread in self.loaded():  # in the order of their creation: a parent comes first
            if self._parents.get(thread.thread_id) in found:
                found[thread.thread_id] = None
        return list(found)

    async def resume_thread(self, params: types.ResumeThreadParams) -> LiveThread:
        """Return the loaded thread, or reopen it and keep it loaded. An exclusive opening always reopens it."""
        if (thread := self.get(params.thread_id)) and not params.exclusive:
            return thread
        resumed = await LiveThread.resume(self._store, params, strict=self._strict)
        if thread := self.get(params.thread_id):  # another call resumed it; both handles share one writer
            await resumed.discard()
            return thread
        return self._load(resumed)

    def remove_thread(self, thread_id: str) -> LiveThread | None:
        """Stop keeping the thread loaded, and return it if it was. It stays open; the caller closes it."""
        thread = self.get(thread_id)
        self._forget(thread_id)
        return thread

    def get(self, thread_id: str) -> LiveThread | None:
        """Return the thread if it is loaded."""
        thread = self._loaded.get(thread_id)
        if thread is not None and not thread.is_open:
            self._forget(thread_id)
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

    async def shutdown_all_threads_bounded(self, timeout_s: float) -> ThreadShutdownReport:
        """Flush and close all loaded threads concurrently, for at most *timeout_s*, and report the result of each.

        Threads that were not closed stay loaded, so that the call can be repeated.
        """
        threads = sorted(self.loaded(), key=lambda thread: thread.thread_id)
        outcomes = await asyncio.gather(
            *(_shut_down(thread, timeout_s) for thread in threads), return_exceptions=True
        )
        ended = dict(zip([thread.thread_id for thread in threads], outcomes, strict=True))
        return ThreadShutdownReport(
            completed=tuple(id_ for id_, error in ended.items() if error is None),
            failed={
                id_: error
                for id_, error in ended.items()
                if isinstance(error, Exception) and not isinstance(error, TimeoutError)
            },
            timed_out=tuple(id_ for id_, error in ended.items() if isinstance(error, TimeoutError)),
        )

    async def _descendants(self, thread_id: str, *, archived: bool) -> list[StoredThread]:
        relation = types.ThreadRelationFilter(kind=types.RelationKind.DESCENDANTS, thread_id=thread_id)
        found: list[StoredThread] = []
        cursor: str | None = None
        while True:
            page = await self._store.list_threads(
                types.ListThreadsParams(
                    page_size=1000,
                    cursor=cursor,
                    archived=archived,
                    relation_filter=relation,
                    include_without_preview=True,
                    include_attached_threads=True,
                )
            )
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    def _forget(self, thread_id: str) -> None:
        self._loaded.pop(thread_id, None)
        self._parents.pop(thread_id, None)

    def _load(self, thread: LiveThread) -> LiveThread:
        self._loaded[thread.thread_id] = thread
        return thread


async def _shut_down(thread: LiveThread, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        await thread.shutdown(timeout_s + 1)  # the store's own limit must not come first


def _of_subagent(parent: StoredThread, params: types.CreateThreadParams) -> types.CreateThreadParams:
    """Return *params* completed with what a sub-agent's thread takes from its *parent*."""
    given = params.model_fields_set
    spawn: dict[str, Any] = {
        "parent_thread_id": parent.thread_id,
        "depth": _depth(parent) + 1,
        "agent_path": params.agent_path,
        "agent_nickname": params.agent_nickname,
        "agent_role": params.agent_role,
    }
    update: dict[str, Any] = {name: getattr(parent, name) for name in _INHERITED if name not in given}
    update["parent_thread_id"] = parent.thread_id
    if "git" not in given:
        update["git"] = parent.git_info
    if "source" not in given:
        update["source"] = {"subagent": {"thread_spawn": spawn}}
    if "thread_source" not in given:
        update["thread_source"] = "subagent"
    return params.model_copy(update=update)


def _of_fork(
    source: StoredThread, fork: types.PreparedFork, params: types.CreateThreadParams
) -> types.CreateThreadParams:
    """Return *params* completed with what a *fork* takes from its *source*."""
    given = params.model_fields_set
    update: dict[str, Any] = {name: getattr(source, name) for name in _FORKED if name not in given}
    if "source" not in given and isinstance(source.source, str):
        update["source"] = source.source
    if "thread_id" not in given:
        update["thread_id"] = fork.fork_id
    update["forked_from_id"], update["history_base"] = fork.thread_id, fork.history_base
    update["history_mode"] = PAGINATED if fork.is_shared else source.history_mode
    return params.model_copy(update=update)


def _depth(thread: StoredThread) -> int:
    """Return the number of spawns from the root thread to this one."""
    kind = thread.source.get("subagent") if isinstance(thread.source, dict) else None
    spawn = kind.get("thread_spawn") if isinstance(kind, dict) else None
    depth = spawn.get("depth") if isinstance(spawn, dict) else None
    return depth if isinstance(depth, int) else 0
