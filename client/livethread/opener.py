"""Refuses calls to a store or reader from outside the process and the event loop that opened it: they would hang."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Protocol, TypeVar

from livethread.errors import InvalidRequest, Unavailable


class Opener:
    """The process and, from `enter_loop` on, the event loop in which a store or reader works."""

    def __init__(self, what: str = "store", nothing: str = "nothing was stored") -> None:
        self._what = what
        self._nothing = nothing
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_closed = False

    def enter_loop(self) -> None:
        """Bind the store or reader to the running loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Refuse all later calls."""
        self.is_closed = True

    def require_process(self) -> None:
        """Check that this process opened the store or reader.

        Raises:
            InvalidRequest: another process did.
        """
        if os.getpid() != self._pid:
            raise InvalidRequest(
                f"this {self._what} belongs to process {self._pid}, and {self._nothing}: after a fork, open a {self._what} "
                "in the new process"
            )

    def require_open(self) -> None:
        """Check that this process opened the store or reader, and has not closed it.

        Raises:
            InvalidRequest: another process opened it.
            Unavailable: it is closed.
        """
        self.require_process()
        if self.is_closed:
            raise Unavailable(f"the {self._what} was closed, and {self._nothing}: open another one")

    def require_loop(self) -> None:
        """Check that this process and this loop opened the store or reader.

        Raises:
            InvalidRequest: it is not open, or another process or loop opened it.
            Unavailable: it is closed.
        """
        self.require_process()
        if self._loop is None:
            raise InvalidRequest(f"this {self._what} is not open, and {self._nothing}: use it in `async with`")
        if _running_loop() is not self._loop:
            raise InvalidRequest(
                f"this {self._what} was opened in another event loop, and {self._nothing}: open a {self._what} in each loop"
            )
        self.require_open()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _HasOpener(Protocol):
    _opener: Opener


StoreT = TypeVar("StoreT", bound=_HasOpener)


def checking(check: Callable[[Opener], None]) -> Callable[[type[StoreT]], type[StoreT]]:
    """Return a decorator for a class of stores or readers that runs *check* before each public operation.

    ``aclose`` may be called again.
    """

    def decorate(store: type[StoreT]) -> type[StoreT]:
        for name, operation in list(vars(store).items()):
            if inspect.iscoroutinefunction(operation) and not name.startswith("_"):
                setattr(store, name, _checked(operation, Opener.require_process if name == "aclose" else check))
        return store

    return decorate


# Any: the decorator keeps every operation's own signature.
def _checked(operation: Callable[..., Coroutine[Any, Any, Any]], check: Callable[[Opener], None]) -> Any:
    @wraps(operation)
    async def checked(store: _HasOpener, *args: Any, **kwargs: Any) -> Any:
        check(store._opener)  # noqa: SLF001 - the decorator belongs to the class
        return await operation(store, *args, **kwargs)

    return checked
