"""The queued store: ordered tasks in Redis, applied by workers."""

from livethread.queued.store import QueuedThreadStore

__all__ = ["QueuedThreadStore"]
