"""Which shards a worker serves: those of ``-Q``, or else those of its home and those that no home serves yet."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from celery import Celery

from livethread.errors import InvalidRequest
from livethread.units import counted
from livethread_config import Settings, names
from livethread_config.deployment import Deployment
from livethread_worker.membership import Membership

logger = logging.getLogger(__name__)


class Serving:
    """Selects the queues of *app*'s worker when it starts, and follows the deployment record from then on."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._prefix = settings.key_prefix
        #: The shards of ``-Q``; None without ``-Q``, or before the worker begins.
        self._chosen: list[int] | None = None

    def begin(self, membership: Membership) -> None:
        """Claim the worker's shards for its home, and consume their queues.

        Raises:
            InvalidRequest: another home serves a shard of ``-Q``, there is no such shard, or no shard is left.
            RedisError, OSError: Redis does not answer.
        """
        queues: Any = self._app.amqp.queues
        if queues._consume_from is not None:  # noqa: SLF001 - nothing else tells whether -Q was given
            self._chosen = shards = self.consumed()
            _require_shards(shards, membership.deployment, self._prefix)
            membership.claim(shards)
            if not shards:
                logger.warning("this worker serves no shard, only the queues %s", ", ".join(queues.consume_from))
        else:
            # Shards that were just added wait for a new home; if no other shard is left for this home, it is new.
            shards = self._due(membership, begun_by=_now_ms()) or self._due(membership)
            shards = [shard for shard in shards if _is_claimed(membership, shard)]
            if not shards:
                raise InvalidRequest(_no_shard_left(membership, self._prefix))
        for shard in membership.deployment.shards if self._chosen is None else ():
            queue = names.queue_name(self._prefix, shard)
            if shard in shards:
                queues.select_add(queue)
            else:
                queues.deselect([queue])

    def consumed(self) -> list[int]:
        """Return the shards whose queues this worker consumes."""
        named = re.compile(rf"{re.escape(self._prefix)}\.(0|[1-9][0-9]*)")
        found = map(named.fullmatch, self._app.amqp.queues.consume_from)
        return [int(match[1]) for match in found if match]

    def shards(self, membership: Membership) -> list[int]:
        """Return the shards that this worker serves for its home, in pool processes too: they know no later queues.

        Raises:
            InvalidRequest: the record contradicts the settings, the home or this release.
            RedisError, OSError: Redis does not answer, and never has.
        """
        return [shard for shard in sorted(membership.served()) if self._chosen is None or shard in self._chosen]

    def follow(self, membership: Membership, consumer: Any) -> None:
        """Serve shards that were added or moved here, and stop serving those that were moved away.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        consumed = self.consumed()
        for shard in consumed:
            home = membership.deployment.home_of.get(shard)
            if home is None:  # Redis lost the record, and another process restored it
                _is_claimed(membership, shard)
            elif home != membership.identity:
                logger.error(
                    "shard %d is served by the home %s now, and no longer by this worker",
                    shard,
                    home,
                    extra={"action": "serve", "shard": shard},
                )
                consumer.cancel_task_queue(names.queue_name(self._prefix, shard))
        due = self.shards(membership) if self._chosen is not None else self._due(membership, begun_by=_now_ms())
        for shard in due:
            if shard not in consumed and _is_claimed(membership, shard):
                consumer.add_task_queue(names.queue_name(self._prefix, shard))
                logger.info("serving shard %d, too", shard, extra={"action": "serve", "shard": shard})

    def _due(self, membership: Membership, begun_by: int | None = None) -> list[int]:
        """Return the shards that a worker without ``-Q`` serves; of unserved ones, those that begin by *begun_by*.

        *begun_by* is a time in ms; None: any. A new shard waits for a new home until it begins; then an existing home
        takes it.
        """
        deployment = membership.deployment
        return [
            shard
            for shard in deployment.shards
            if membership.is_mine(shard)
            or (membership.may_serve(shard) and (begun_by is None or deployment.epochs.begin_of(shard) <= begun_by))
        ]


def _is_claimed(membership: Membership, shard: int) -> bool:
    """Claim *shard*; return False if another home was faster."""
    try:
        membership.claim([shard])
    except InvalidRequest:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _require_shards(shards: list[int], deployment: Deployment, prefix: str) -> None:
    missing = [names.queue_name(prefix, shard) for shard in shards if shard not in deployment.shards]
    if missing:
        raise InvalidRequest(
            f"-Q names {', '.join(missing)}, but the deployment {prefix!r} has {counted(deployment.epochs.shards, 'shard')}: "
            f"{names.queue_name(prefix, 0)} to {names.queue_name(prefix, deployment.epochs.shards - 1)}. Add shards with "
            "livethread shards add"
        )


def _no_shard_left(membership: Membership, prefix: str) -> str:
    deployment, mine = membership.deployment, membership.identity
    held = ", ".join(f"{shard} by {home}" for shard, home in sorted(deployment.home_of.items()))
    copied = any(home.id == mine.id for home in deployment.home_of.values())
    return (
        f"other homes serve all shards of the deployment {prefix!r} (shard {held}), and this worker's home is "
        f"{mine}{', a copy of one of them' if copied else ''}. Use one of those homes (LIVETHREAD_HOME), add shards "
        "for this one (livethread shards add), or move a shard here: stop the workers of its home, bring its files, "
        "and run livethread shards move SHARD"
    )
