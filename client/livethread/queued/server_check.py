"""Checks whether a Redis can keep our promises: refuses a server that cannot, and logs lesser faults."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from livethread.errors import InvalidRequest
from livethread_config import Settings

logger = logging.getLogger(__name__)

#: The oldest version that runs our scripts. Valkey reports which version of Redis it matches.
OLDEST: Final = (7, 0)

_MODES: Final = {
    "cluster": "a Redis Cluster, which is not supported; use one server, or a proxy that hides the cluster",
    "sentinel": "a Sentinel, which holds no data; use the URL of the master, or of a proxy that follows failovers",
}

#: What was logged already; each store that a process opens would repeat it.
_logged: set[tuple[str, str]] = set()


def examine(info: Mapping[str, Any]) -> list[str]:
    """Return the faults of the server whose ``INFO`` this is.

    Raises:
        InvalidRequest: it cannot keep what it accepts, or cannot run our scripts.
    """
    mode = info.get("server_mode") or info.get("redis_mode", "standalone")  # Valkey's name, Redis' name
    version = str(info.get("redis_version", "7.0"))
    if mode in _MODES:
        raise InvalidRequest(f"LIVETHREAD_REDIS_URL leads to {_MODES[mode]}")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise InvalidRequest(
            f"LIVETHREAD_REDIS_URL leads to Redis {version}; it must be Redis 7.0 or newer, or Valkey"
        )
    faults = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        if policy.startswith("allkeys"):
            raise InvalidRequest(
                f"this Redis drops keys when its memory is full (maxmemory-policy {policy}), and accepted tasks with them; "
                "set maxmemory-policy to noeviction, or use a Redis of your own"
            )
        faults.append(
            f"this Redis may drop writers' counters and fences when its memory is full (maxmemory-policy {policy}); set "
            "maxmemory-policy to noeviction"
        )
    if not int(info.get("aof_enabled", 1)):
        faults.append(
            "this Redis writes no append-only file: if it stops, it loses accepted tasks that are not applied yet; set "
            "appendonly to yes"
        )
    return faults


def log_faults(settings: Settings, info: Mapping[str, Any]) -> None:
    """Log the faults of *settings*' Redis, each once in a process.

    Raises:
        InvalidRequest: as `examine`.
    """
    for fault in examine(info):
        if (settings.client_url, fault) not in _logged:
            _logged.add((settings.client_url, fault))
            logger.warning(fault, extra={"action": "open"})
