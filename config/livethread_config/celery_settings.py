"""The Celery settings that clients and workers share."""

from __future__ import annotations

from typing import Any, Final

from livethread_config import names
from livethread_config.settings import Settings

#: How long Celery waits for a connected Redis to answer before it reconnects.
SOCKET_TIMEOUT: Final = 10.0  # seconds


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings of a Celery application of *settings*' deployment."""
    # Only the deployment record says how many there are; a worker adds those that it serves when it starts.
    queues = [names.queue_name(settings.key_prefix, shard) for shard in range(settings.shards or 1)]
    key_prefix = names.celery_key_prefix(settings.key_prefix)
    redis = settings.redis
    return {
        "broker_url": redis.for_kombu,
        "broker_use_ssl": redis.for_kombu_tls,
        "broker_transport_options": {
            "global_keyprefix": key_prefix,
            # No copy of a message that a worker has taken: it would need memory, and a lost doorbell does no harm.
            "ack_emulation": False,
            "socket_connect_timeout": settings.connect_timeout_s,
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_keepalive": not redis.socket,
            "health_check_interval": 25,
        },
        # Reads answer through Redis lists of their own: results would stay there.
        "result_backend": "disabled://",
        "task_default_queue": queues[0],
        "task_queues": {name: {} for name in queues},
        # A doorbell may be lost, since the tasks are in the mailbox; so Celery acknowledges it before it runs.
        "task_acks_late": False,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "broker_connection_retry_on_startup": True,
        # Never give up; Celery's default is 100 attempts.
        "broker_connection_max_retries": None,
        # An error reply of Redis (READONLY, OOM, NOPERM) is no reason to end either.
        "broker_channel_error_retry": True,
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": 10.0,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
    }
