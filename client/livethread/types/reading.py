"""Parameters for reading one thread."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from livethread.thread_id import ThreadId
from livethread.types.freshness import Freshness, ThreadFreshness


class LoadThreadHistoryParams(ThreadFreshness):
    """Parameters for reading a thread's items."""

    thread_id: ThreadId
    include_archived: bool = True


class ReadThreadParams(ThreadFreshness):
    """Parameters for reading a thread."""

    thread_id: ThreadId
    include_archived: bool = True
    include_history: bool = False
    #: Raise `Conflict` if other threads need the thread, so that it cannot be deleted.
    is_deletable: bool = False


class ReadThreadByRolloutPathParams(ThreadFreshness):
    """Parameters for reading a thread by its rollout's path, relative to the home or absolute within it."""

    rollout_path: str
    include_archived: bool = True
    include_history: bool = False


class FindThreadByNameParams(Freshness):
    """Parameters for finding a thread by its name."""

    #: The whole name, as it was given.
    name: Annotated[str, Field(min_length=1)]
    include_archived: bool = False
    #: Threads to pass over.
    except_thread_ids: tuple[ThreadId, ...] = ()
