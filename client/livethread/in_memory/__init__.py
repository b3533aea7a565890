"""The store contract in memory, for tests of code that uses a store."""

from __future__ import annotations

from livethread.in_memory.store import InMemoryThreadStore

__all__ = ["InMemoryThreadStore"]
