"""Waits until what Redis has accepted is applied: of one thread up to a position, or of all threads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from redis.exceptions import RedisError, ResponseError

from livethread.errors import ThreadNotFound, ThreadParked, Unavailable
from livethread.position import START, Position, position_key
from livethread.queued.connection import cancellable, redis_errors_translated
from livethread.queued.mailboxes import Mailboxes, ThreadBacklog
from livethread.queued.outage import explain
from livethread_config import Settings
from livethread_config.redis_url import without_password

#: First and longest wait before asking Redis again.
ASK_FIRST: Final = 0.02  # seconds
ASK_LONGEST: Final = 1.0  # seconds

#: Threads about which a wait for all of them asks at a time.
BACKLOGS: Final = 500


class Backlog:
    """The tasks that Redis has accepted and workers have not applied yet."""

    def __init__(self, mailboxes: Mailboxes, settings: Settings) -> None:
        self._mailboxes = mailboxes
        self._settings = settings

    async def until_applied(
        self, thread_id: str, position: Position, *, fresh: bool = False, may_be_parked: bool = False
    ) -> Position:
        """Wait until a thread is applied up to *position*, and if *fresh* up to its last position now.

        Return the position up to which it is applied then. It is an earlier one if Redis never gave *position* to the
        thread, or if the thread is parked and *may_be_parked*.

        Raises:
            ThreadNotFound: *fresh*, and the thread's deletion was accepted.
            ThreadParked: one of the tasks cannot be applied.
            Unavailable: Redis does not answer, or it took longer than a flush may.
        """
        with redis_errors_translated(self._settings):
            backlogs = await self._mailboxes.backlogs([thread_id])
        first = backlogs[thread_id]
        if fresh:
            if first.is_deleted:
                raise ThreadNotFound(thread_id, "it was deleted")
            position = max(position, first.tail or START, key=position_key)
        backlogs = await self._until({thread_id: position}, backlogs, self._deadline(), may_be_parked=may_be_parked)
        return backlogs[thread_id].applied_up_to

    async def until_all_applied(self) -> None:
        """Wait until everything is applied that Redis has accepted by now.

        Raises:
            ThreadParked: a task of some thread cannot be applied.
            Unavailable: Redis does not answer, or it took longer than a flush may.
        """
        deadline = self._deadline()
        with redis_errors_translated(self._settings):
            threads = await self._mailboxes.waiting_threads()
        # One part after the other: asking about 10,000 threads takes half a second.
        for start in range(0, len(threads), BACKLOGS):
            with redis_errors_translated(self._settings):
                backlogs = await self._mailboxes.backlogs(threads[start : start + BACKLOGS])
            tails = {id_: each.tail for id_, each in backlogs.items() if each.tail is not None}
            await self._until(tails, backlogs, deadline)

    async def not_applied(self, thread_id: str, limit: float, failure: Exception | None) -> Unavailable:
        """Return the error of a wait for the thread that took longer than *limit*: because of *failure*, if it is known."""
        try:
            async with asyncio.timeout(ASK_LONGEST):
                cause = None if failure else (await self._mailboxes.circumstances(thread_id)).cause()
        except (RedisError, OSError) as error:
            failure, cause = error, None
        if cause is None:
            held_up = explain(failure) if isinstance(failure, RedisError | OSError) else f"holds a task up: {failure}"
            cause = f"Redis at {without_password(self._settings.client_url)} {held_up}"
        return Unavailable(
            f"the tasks of thread {thread_id} were not applied within {limit:g} s; they are kept, in order, and nothing "
            f"is lost; flush or read again to wait longer. {cause}"
        )

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.flush_timeout_s

    async def _until(
        self,
        positions: Mapping[str, Position],
        known: dict[str, ThreadBacklog],
        deadline: float,
        *,
        may_be_parked: bool = False,
    ) -> dict[str, ThreadBacklog]:
        """Wait until each thread is applied up to its position, and return what is *known* then."""
        waiting, wait = list(positions), ASK_FIRST
        try:
            async with asyncio.timeout_at(deadline):
                while waiting := [
                    id_ for id_ in waiting if _is_waiting(id_, known[id_], positions[id_], may_be_parked)
                ]:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, ASK_LONGEST)
                    known |= await cancellable(self._ask_again(waiting))
        except TimeoutError:
            raise await self.not_applied(waiting[0], self._settings.flush_timeout_s, None) from None
        return known

    async def _ask_again(self, thread_ids: list[str]) -> dict[str, ThreadBacklog]:
        """Ask how far workers are with the threads, and make sure that they go on."""
        with redis_errors_translated(self._settings):
            # One doorbell serves a shard.
            for thread_id in {self._mailboxes.place(id_).shard: id_ for id_ in thread_ids}.values():
                with suppress(ResponseError):  # workers go on, and make room
                    await self._mailboxes.poke(thread_id)
            return await self._mailboxes.backlogs(thread_ids)


def _is_waiting(thread_id: str, backlog: ThreadBacklog, position: Position, may_be_parked: bool) -> bool:
    if backlog.head is None or position_key(backlog.head) > position_key(position):
        return False
    if backlog.parked is None:
        return True
    if not may_be_parked:
        raise ThreadParked(thread_id, backlog.parked)
    return backlog.is_deleted
