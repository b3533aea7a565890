"""The SQLite index: disposable, always rebuildable from the rollouts."""

from livethread_worker.store.index.index import Index, IndexUnavailable

__all__ = ["Index", "IndexUnavailable"]
