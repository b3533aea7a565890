"""Durable, ordered persistence for agent threads, on Celery and Redis.

Session code opens a store, holds a `LiveThread` and appends conversation items. Each append and each metadata
patch becomes an ordered task in Redis; workers apply them to rollout files in codex's format and to an index.

Rules that hold everywhere:

- The thread id is the only durable handle of a thread.
- Raw appends change history alone. Metadata changes by literal patches: `LiveThread` derives one from the items of each
  append, and sends both as one change.
- A receipt means ordered and accepted; `flush` means fsynced and indexed. Nothing accepted is dropped.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livethread.composition import open_store as open_store
    from livethread.errors import Conflict as Conflict
    from livethread.errors import HomesUnavailable as HomesUnavailable
    from livethread.errors import Internal as Internal
    from livethread.errors import InvalidRequest as InvalidRequest
    from livethread.errors import ResourceExhausted as ResourceExhausted
    from livethread.errors import SilentHome as SilentHome
    from livethread.errors import ThreadNotFound as ThreadNotFound
    from livethread.errors import ThreadParked as ThreadParked
    from livethread.errors import ThreadStoreError as ThreadStoreError
    from livethread.errors import Unavailable as Unavailable
    from livethread.errors import Unsupported as Unsupported
    from livethread.in_memory import InMemoryThreadStore as InMemoryThreadStore
    from livethread.live_thread import LiveThread as LiveThread
    from livethread.live_thread import LiveThreadInitGuard as LiveThreadInitGuard
    from livethread.metadata import GitInfo as GitInfo
    from livethread.metadata import GitInfoPatch as GitInfoPatch
    from livethread.metadata import MemoryMode as MemoryMode
    from livethread.metadata import MetadataUpdate as MetadataUpdate
    from livethread.metadata import SessionSource as SessionSource
    from livethread.metadata import StoredModelContext as StoredModelContext
    from livethread.metadata import StoredThread as StoredThread
    from livethread.metadata import StoredThreadHistory as StoredThreadHistory
    from livethread.metadata import ThreadMetadataPatch as ThreadMetadataPatch
    from livethread.metadata import ThreadSource as ThreadSource
    from livethread.metadata_sync import ThreadMetadataSync as ThreadMetadataSync
    from livethread.observers import InitializationMode as InitializationMode
    from livethread.observers import ItemsAppended as ItemsAppended
    from livethread.observers import JsonLinesObserver as JsonLinesObserver
    from livethread.observers import MetadataUpdated as MetadataUpdated
    from livethread.observers import Observers as Observers
    from livethread.observers import TasksApplied as TasksApplied
    from livethread.observers import ThreadEvent as ThreadEvent
    from livethread.observers import ThreadInitialized as ThreadInitialized
    from livethread.observers import ThreadParkedEvent as ThreadParkedEvent
    from livethread.policy import is_persisted as is_persisted
    from livethread.policy import persisted_items as persisted_items
    from livethread.position import Position as Position
    from livethread.queued.queued_store import QueuedThreadStore as QueuedThreadStore
    from livethread.rollout.item import RolloutItem as RolloutItem
    from livethread.store import ThreadReader as ThreadReader
    from livethread.store import ThreadStore as ThreadStore
    from livethread.store import WatchingReader as WatchingReader
    from livethread.thread_id import ThreadId as ThreadId
    from livethread.thread_id import new_thread_id as new_thread_id
    from livethread.thread_manager import ThreadManager as ThreadManager
    from livethread.thread_manager import ThreadShutdownReport as ThreadShutdownReport
    from livethread.types import AppendThreadItemsParams as AppendThreadItemsParams
    from livethread.types import ArchiveThreadParams as ArchiveThreadParams
    from livethread.types import ArchiveThreadsParams as ArchiveThreadsParams
    from livethread.types import CreateThreadParams as CreateThreadParams
    from livethread.types import DeleteThreadParams as DeleteThreadParams
    from livethread.types import DeleteThreadsParams as DeleteThreadsParams
    from livethread.types import DiscardThreadParams as DiscardThreadParams
    from livethread.types import FindThreadByNameParams as FindThreadByNameParams
    from livethread.types import FlushThreadParams as FlushThreadParams
    from livethread.types import HistoryPosition as HistoryPosition
    from livethread.types import ItemPage as ItemPage
    from livethread.types import ListItemsParams as ListItemsParams
    from livethread.types import ListThreadsParams as ListThreadsParams
    from livethread.types import ListTurnsParams as ListTurnsParams
    from livethread.types import LoadThreadHistoryParams as LoadThreadHistoryParams
    from livethread.types import OccurrencePage as OccurrencePage
    from livethread.types import PersistThreadParams as PersistThreadParams
    from livethread.types import PreparedFork as PreparedFork
    from livethread.types import PrepareForkParams as PrepareForkParams
    from livethread.types import ReadThreadByRolloutPathParams as ReadThreadByRolloutPathParams
    from livethread.types import ReadThreadParams as ReadThreadParams
    from livethread.types import Receipt as Receipt
    from livethread.types import RelationKind as RelationKind
    from livethread.types import ResumeThreadParams as ResumeThreadParams
    from livethread.types import SearchMatch as SearchMatch
    from livethread.types import SearchOccurrencesParams as SearchOccurrencesParams
    from livethread.types import SearchThreadsParams as SearchThreadsParams
    from livethread.types import ShutdownThreadParams as ShutdownThreadParams
    from livethread.types import SortDirection as SortDirection
    from livethread.types import StoredThreadSearchResult as StoredThreadSearchResult
    from livethread.types import StoredTurn as StoredTurn
    from livethread.types import StoredTurnError as StoredTurnError
    from livethread.types import StoredTurnItemsView as StoredTurnItemsView
    from livethread.types import StoredTurnStatus as StoredTurnStatus
    from livethread.types import ThreadItem as ThreadItem
    from livethread.types import ThreadOccurrence as ThreadOccurrence
    from livethread.types import ThreadPage as ThreadPage
    from livethread.types import ThreadRelationFilter as ThreadRelationFilter
    from livethread.types import ThreadResult as ThreadResult
    from livethread.types import ThreadResults as ThreadResults
    from livethread.types import ThreadSearchPage as ThreadSearchPage
    from livethread.types import ThreadSortKey as ThreadSortKey
    from livethread.types import TurnPage as TurnPage
    from livethread.types import UpdateThreadMetadataParams as UpdateThreadMetadataParams
    from livethread.types import WatchThreadParams as WatchThreadParams
    from livethread_config import Settings as Settings

    __version__: str

#: The public names and their modules. A module is imported when one of its names is first used: the command line
#: starts sooner, and what needs no Celery never imports it.
_MODULES = {
    "AppendThreadItemsParams": "livethread.types",
    "ArchiveThreadParams": "livethread.types",
    "ArchiveThreadsParams": "livethread.types",
    "Conflict": "livethread.errors",
    "CreateThreadParams": "livethread.types",
    "DeleteThreadParams": "livethread.types",
    "DeleteThreadsParams": "livethread.types",
    "DiscardThreadParams": "livethread.types",
    "FindThreadByNameParams": "livethread.types",
    "FlushThreadParams": "livethread.types",
    "HistoryPosition": "livethread.types",
    "GitInfo": "livethread.metadata",
    "GitInfoPatch": "livethread.metadata",
    "HomesUnavailable": "livethread.errors",
    "InMemoryThreadStore": "livethread.in_memory",
    "InitializationMode": "livethread.observers",
    "Internal": "livethread.errors",
    "InvalidRequest": "livethread.errors",
    "ItemPage": "livethread.types",
    "ItemsAppended": "livethread.observers",
    "JsonLinesObserver": "livethread.observers",
    "ListItemsParams": "livethread.types",
    "ListThreadsParams": "livethread.types",
    "ListTurnsParams": "livethread.types",
    "LiveThread": "livethread.live_thread",
    "LiveThreadInitGuard": "livethread.live_thread",
    "LoadThreadHistoryParams": "livethread.types",
    "MemoryMode": "livethread.metadata",
    "MetadataUpdate": "livethread.metadata",
    "MetadataUpdated": "livethread.observers",
    "Observers": "livethread.observers",
    "PersistThreadParams": "livethread.types",
    "Position": "livethread.position",
    "PrepareForkParams": "livethread.types",
    "PreparedFork": "livethread.types",
    "QueuedThreadStore": "livethread.queued.queued_store",
    "ReadThreadByRolloutPathParams": "livethread.types",
    "ReadThreadParams": "livethread.types",
    "Receipt": "livethread.types",
    "RelationKind": "livethread.types",
    "ResourceExhausted": "livethread.errors",
    "ResumeThreadParams": "livethread.types",
    "RolloutItem": "livethread.rollout.item",
    "SearchMatch": "livethread.types",
    "ThreadItem": "livethread.types",
    "ThreadOccurrence": "livethread.types",
    "SearchOccurrencesParams": "livethread.types",
    "OccurrencePage": "livethread.types",
    "SearchThreadsParams": "livethread.types",
    "SessionSource": "livethread.metadata",
    "Settings": "livethread_config",
    "ShutdownThreadParams": "livethread.types",
    "SilentHome": "livethread.errors",
    "SortDirection": "livethread.types",
    "StoredModelContext": "livethread.metadata",
    "StoredThread": "livethread.metadata",
    "StoredThreadHistory": "livethread.metadata",
    "StoredThreadSearchResult": "livethread.types",
    "StoredTurn": "livethread.types",
    "StoredTurnError": "livethread.types",
    "StoredTurnItemsView": "livethread.types",
    "StoredTurnStatus": "livethread.types",
    "TasksApplied": "livethread.observers",
    "ThreadEvent": "livethread.observers",
    "ThreadId": "livethread.thread_id",
    "ThreadInitialized": "livethread.observers",
    "ThreadManager": "livethread.thread_manager",
    "ThreadMetadataPatch": "livethread.metadata",
    "ThreadMetadataSync": "livethread.metadata_sync",
    "ThreadNotFound": "livethread.errors",
    "ThreadPage": "livethread.types",
    "ThreadParked": "livethread.errors",
    "ThreadParkedEvent": "livethread.observers",
    "ThreadReader": "livethread.store",
    "ThreadRelationFilter": "livethread.types",
    "ThreadResult": "livethread.types",
    "ThreadResults": "livethread.types",
    "ThreadSearchPage": "livethread.types",
    "ThreadShutdownReport": "livethread.thread_manager",
    "ThreadSortKey": "livethread.types",
    "ThreadSource": "livethread.metadata",
    "ThreadStore": "livethread.store",
    "ThreadStoreError": "livethread.errors",
    "TurnPage": "livethread.types",
    "Unavailable": "livethread.errors",
    "Unsupported": "livethread.errors",
    "UpdateThreadMetadataParams": "livethread.types",
    "WatchThreadParams": "livethread.types",
    "WatchingReader": "livethread.store",
    "is_persisted": "livethread.policy",
    "new_thread_id": "livethread.thread_id",
    "open_store": "livethread.composition",
    "persisted_items": "livethread.policy",
}

__all__ = list(_MODULES)

if not TYPE_CHECKING:  # a type checker would believe that every name exists

    def __getattr__(name: str) -> Any:
        """Import the public *name* and keep it."""
        if name == "__version__":
            return import_module("importlib.metadata").version("livethread")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    """Return the names that are imported already, and those that can be."""
    return sorted({*globals(), *_MODULES})
