"""Interprets errors of Redis: whether they may pass, and how logs and errors put them."""

from __future__ import annotations

import logging
from typing import Any, Final

from kombu.exceptions import OperationalError
from redis import exceptions as redis

from livethread.errors import InvalidRequest

#: Error replies that mean "no". All others, such as MISCONF, NOREPLICAS or NOPERM, mean "not now".
_FINAL: Final = (redis.ClusterCrossSlotError, redis.ModuleError, redis.NoScriptError)
_FINAL_CODES: Final = ("ERR", "WRONGTYPE")

#: A right that a script lacks. Redis gives it the code ERR, but it may be granted again.
_SCRIPT_LACKS_RIGHT: Final = "ACL failure in script"

#: Replies of a server that is not the master, or not yet. Its address may lead to the master.
NOT_THE_MASTER: Final = (redis.ReadOnlyError, redis.MasterDownError, redis.BusyLoadingError)


def may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later, without a change of the request or of the code."""
    if type(error) is not redis.ResponseError:  # redis-py has a class for each code that is not listed above
        return not isinstance(error, _FINAL)
    first = str(error).partition(" ")[0]
    code = first if first.isupper() else "ERR"  # redis-py removes this code
    return code not in _FINAL_CODES or _SCRIPT_LACKS_RIGHT in str(error)


def explain(error: BaseException) -> str:
    """Return what Redis does instead of answering: ``answers OOM command not allowed …``, ``does not answer: …``."""
    if isinstance(error, InvalidRequest):
        return f"holds the record of another deployment: {error}"
    cause = error.__cause__
    # While they connect, kombu and redis-py wrap error replies in errors of their own.
    if cause is not None and (isinstance(error, OperationalError) or _is_reply(cause)):
        error = cause
    text = str(error).rstrip(".")
    if not _is_reply(error):
        return f"does not answer: {text or 'it timed out'}"
    code = getattr(error, "status_code", None)  # redis-py removes the codes that it knows from the text
    return f"answers {text if code is None else f'{code} {text}'}"


def _is_reply(error: BaseException) -> bool:
    return isinstance(error, redis.ResponseError) or getattr(error, "status_code", None) is not None


class Outage:
    """Logs why Redis cannot be used, each reason once, and when it can be used again."""

    def __init__(self, logger: logging.Logger, action: str) -> None:
        self._logger = logger
        self._action = action
        self._known: str | None = None

    def begin(self, error: BaseException, effect: str, **extra: Any) -> None:
        """Log *error* and its *effect*; at debug level if the last error was the same."""
        explained = explain(error)
        level = logging.WARNING if explained != self._known else logging.DEBUG
        self._known = explained
        self._logger.log(level, "Redis %s; %s", explained, effect, extra={"action": self._action, **extra})

    def end(self) -> None:
        """Log that Redis can be used again, if it could not."""
        if self._known is not None:
            self._known = None
            self._logger.info("Redis answers again", extra={"action": self._action})
