"""Log records as JSON lines, which keep what records carry beside their messages: thread, shard, position and more."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from livethread.model import format_time

#: What every record has; all else came with ``extra``.
_COMMON: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: ``at``, ``level``, ``logger``, ``process``, ``message`` and its ``extra``.

    handler.setFormatter(JsonFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of *record*."""
        line: dict[str, Any] = {
            "at": format_time(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        line |= {name: value for name, value in vars(record).items() if name not in _COMMON and name not in line}
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # an integer beyond 64 bits, a lone surrogate
            return json.dumps(line, default=str)
