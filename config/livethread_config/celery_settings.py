"""The Celery settings that clients and workers share."""

from __future__ import annotations

from typing import Any, Final

from livethread_config import names
from livethread_config.settings import Settings

#: How long Celery waits for a connected Redis to answer before it reconnects.
SOCKET_TIMEOUT: Final = 10.0  # seconds


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings of a Celery application of *settings*' deployment."""
    queues = [names.queue_name(settings.key_prefix, shard) for shard in range(settings.shards)]
    # Celery's keys share our prefix, so that one Redis ACL covers both.
    key_prefix = f"{settings.key_prefix}:celery:"
    redis = settings.redis
    return {
        "broker_url": redis.for_kombu,
        "broker_use_ssl": redis.for_kombu_tls,
        "result_backend": redis.for_kombu,
        "redis_backend_use_ssl": redis.for_kombu_tls,
        "broker_transport_options": {
            "global_keyprefix": key_prefix,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_keepalive": not redis.socket,
            "health_check_interval": 25,
        },
        "result_backend_transport_options": {"global_keyprefix": key_prefix, "retry_policy": {"timeout": 2.0}},
        "task_default_queue": queues[0],
        "task_queues": {name: {} for name in queues},
        # A doorbell may be lost, since the tasks are in the mailbox; so Celery acknowledges it before it runs.
        "task_acks_late": False,
        "task_ignore_result": True,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_expires": 300,
        "broker_connection_retry_on_startup": True,
        # Never give up; Celery's default is 100 attempts.
        "broker_connection_max_retries": None,
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": 10.0,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
    }
