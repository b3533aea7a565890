"""Durable, ordered persistence for agent threads, on Celery and Redis.

Session code opens a store, holds a `LiveThread` and appends conversation items. Each append and each metadata
patch becomes an ordered task in Redis; workers apply them to rollout files in codex's format and to an index.

Rules that hold everywhere:

- The thread id is the only durable handle of a thread.
- Metadata follows the items that a `LiveThread` appends, as one change with them; everything else is a literal patch.
- A receipt means ordered and accepted; `flush` means fsynced and indexed. Nothing accepted is dropped.
"""

from livethread.composition import open_store
from livethread.errors import (
    Conflict,
    Internal,
    InvalidRequest,
    ResourceExhausted,
    ThreadNotFound,
    ThreadParked,
    ThreadStoreError,
    Unavailable,
    Unsupported,
)
from livethread.in_memory import InMemoryThreadStore
from livethread.live_thread import LiveThread, LiveThreadInitGuard
from livethread.metadata import (
    GitInfo,
    GitInfoPatch,
    MemoryMode,
    SessionSource,
    StoredThread,
    StoredThreadHistory,
    ThreadMetadataPatch,
    ThreadSource,
)
from livethread.observers import (
    ItemsAppended,
    MetadataUpdated,
    Observers,
    TasksApplied,
    ThreadEvent,
    ThreadInitialized,
    ThreadParkedEvent,
)
from livethread.policy import is_persisted, persisted_items
from livethread.queued import QueuedThreadStore
from livethread.rollout.item import RolloutItem
from livethread.store import ThreadReader, ThreadStore
from livethread.thread_id import ThreadId, new_thread_id
from livethread.thread_manager import ThreadManager
from livethread.types import (
    AppendThreadItemsParams,
    ArchiveThreadParams,
    CreateThreadParams,
    DeleteThreadParams,
    DiscardThreadParams,
    FlushThreadParams,
    ItemPage,
    ListItemsParams,
    ListThreadsParams,
    ListTurnsParams,
    LoadThreadHistoryParams,
    PersistThreadParams,
    Position,
    ReadThreadByRolloutPathParams,
    ReadThreadParams,
    Receipt,
    RelationKind,
    ResumeThreadParams,
    SearchThreadsParams,
    ShutdownThreadParams,
    SortDirection,
    StoredThreadSearchResult,
    StoredTurn,
    StoredTurnItemsView,
    StoredTurnStatus,
    ThreadPage,
    ThreadRelationFilter,
    ThreadSearchPage,
    ThreadSortKey,
    TurnPage,
    UpdateThreadMetadataParams,
)
from livethread_config import Settings

__all__ = [
    "AppendThreadItemsParams",
    "ArchiveThreadParams",
    "Conflict",
    "CreateThreadParams",
    "DeleteThreadParams",
    "DiscardThreadParams",
    "FlushThreadParams",
    "GitInfo",
    "GitInfoPatch",
    "InMemoryThreadStore",
    "Internal",
    "InvalidRequest",
    "ItemPage",
    "ItemsAppended",
    "ListItemsParams",
    "ListThreadsParams",
    "ListTurnsParams",
    "LiveThread",
    "LiveThreadInitGuard",
    "LoadThreadHistoryParams",
    "MemoryMode",
    "MetadataUpdated",
    "Observers",
    "PersistThreadParams",
    "Position",
    "QueuedThreadStore",
    "ReadThreadByRolloutPathParams",
    "ReadThreadParams",
    "Receipt",
    "RelationKind",
    "ResourceExhausted",
    "ResumeThreadParams",
    "RolloutItem",
    "SearchThreadsParams",
    "SessionSource",
    "Settings",
    "ShutdownThreadParams",
    "SortDirection",
    "StoredThread",
    "StoredThreadHistory",
    "StoredThreadSearchResult",
    "StoredTurn",
    "StoredTurnItemsView",
    "StoredTurnStatus",
    "TasksApplied",
    "ThreadEvent",
    "ThreadId",
    "ThreadInitialized",
    "ThreadManager",
    "ThreadMetadataPatch",
    "ThreadNotFound",
    "ThreadPage",
    "ThreadParked",
    "ThreadParkedEvent",
    "ThreadReader",
    "ThreadRelationFilter",
    "ThreadSearchPage",
    "ThreadSortKey",
    "ThreadSource",
    "ThreadStore",
    "ThreadStoreError",
    "TurnPage",
    "Unavailable",
    "Unsupported",
    "UpdateThreadMetadataParams",
    "is_persisted",
    "new_thread_id",
    "open_store",
    "persisted_items",
]
