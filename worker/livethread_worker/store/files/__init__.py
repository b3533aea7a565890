"""The files of a home: rollouts, names, locks, quarantine."""

from livethread_worker.store.files.home import Home

__all__ = ["Home"]
