"""What the client and the worker must spell alike: settings and names."""

from livethread_config.settings import Settings

__all__ = ["Settings"]
