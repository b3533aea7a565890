"""The SQLite index: disposable, always rebuildable from the rollouts."""

from __future__ import annotations

from livethread_worker.store.index.database import IndexUnavailable
from livethread_worker.store.index.index import Index

__all__ = ["Index", "IndexUnavailable"]
