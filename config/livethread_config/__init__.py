"""The settings and names on which client and worker must agree."""

from livethread_config.settings import Settings

__all__ = ["Settings"]
