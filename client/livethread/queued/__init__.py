"""The queued store: ordered tasks in Redis, applied by workers."""

from livethread.queued.queued_store import QueuedThreadStore

__all__ = ["QueuedThreadStore"]
