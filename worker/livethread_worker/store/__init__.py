"""The store of one home: rollout files, and the index made from them."""

from __future__ import annotations

from livethread_worker.store.local import LocalThreadStore

__all__ = ["LocalThreadStore"]
