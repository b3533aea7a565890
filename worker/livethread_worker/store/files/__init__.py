"""The files of a home: rollouts, names, locks, quarantine."""

from __future__ import annotations

from livethread_worker.store.files.home import Home

__all__ = ["Home"]
