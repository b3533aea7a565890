"""Python threads that run one at a time, as the test directs: each stops before and after every call to Redis.

The speed of the machine does not matter: the same directions always lead to the same result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from tests.nodes.killing import Killed
from tests.nodes.waiting import DEADLINE


class Closed(BaseException):
    """The test ends the actor."""


class Order(Enum):
    """What an actor does next."""

    GO_ON = auto()
    #: Break its connection: before a call, which is then not made, or after it, so that the reply is lost.
    DISCONNECT = auto()
    DIE = auto()
    CLOSE = auto()


class Actor:
    """A Python thread that proceeds only when the test lets it."""

    def __init__(self, name: str, play: Callable[[Actor], None]) -> None:
        self.name = name
        #: Where it has stopped.
        self.place = "the beginning"
        self.is_over = False
        self._play = play
        self._order = Order.GO_ON
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def step(self, order: Order = Order.GO_ON) -> None:
        """Let the actor proceed to its next place."""
        if self.is_over:
            return
        self._order = order
        self._go.release()
        assert self._stopped.acquire(timeout=DEADLINE), (
            f"{self.name} went on from {self.place} and did not stop again"
        )
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread."""
        while not self.is_over:
            self.step(Order.CLOSE)
        self._thread.join(DEADLINE)

    def stand(self, place: str) -> None:
        """Stop at *place*, in the actor's own thread, until the next order."""
        self.place = place
        self._stopped.release()
        self._go.acquire()
        match self._order:
            case Order.DISCONNECT:
                raise RedisConnectionError(f"cut {place}")
            case Order.DIE:
                raise Killed
            case Order.CLOSE:
                raise Closed

    def _run(self) -> None:
        try:
            self._go.acquire()
            if self._order is not Order.CLOSE:
                self._play(self)
        except (Killed, Closed):
            pass
        except BaseException as error:  # noqa: BLE001 - `step` raises it
            self._error = error
        self.place, self.is_over = "the end", True
        self._stopped.release()


class WatchedRedis(Redis):
    """A connection that stops its owner before and after each call."""

    owner: Actor
    #: Script names by digest.
    scripts: dict[str, str]
    #: Called with each reply.
    heard: Callable[[Actor, str, Any], None]

    @classmethod
    def of(
        cls, url: str, owner: Actor, scripts: dict[str, str], heard: Callable[[Actor, str, Any], None]
    ) -> WatchedRedis:
        redis = cls.from_url(url)
        assert isinstance(redis, WatchedRedis)
        redis.owner, redis.scripts, redis.heard = owner, scripts, heard
        return redis

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = self.scripts[args[1]] if args[0] == "EVALSHA" else args[0]
        self.owner.stand(f"before {name}")
        if name == "BLPOP":  # never waits, since no time passes here
            reply = super().execute_command("LPOP", args[1])  # type: ignore[no-untyped-call]  # redis-py's is not typed
        else:
            reply = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # as above
        self.heard(self.owner, name, reply)
        self.owner.stand(f"after {name}")
        return reply
