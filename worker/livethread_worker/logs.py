"""The form of a worker's log, and what it leaves out."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.app.log import Logging

from livethread.json_logs import JsonFormatter
from livethread_config import Settings, names


def set_up_logs(app: Celery, settings: Settings) -> None:
    """Set the log format of *app*'s workers from *settings*, and leave out Celery's lines about doorbells."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_is_worth_a_line)
    if settings.log_format == "json":
        app.log_cls = f"{__name__}:JsonLogging"


class JsonLogging(Logging):
    """Sets up Celery's handlers to write JSON lines, whatever format Celery asks for."""

    # Any: Celery's types of these are incomplete.
    def setup_handlers(self, logger: Any, logfile: Any, *_: Any, **__: Any) -> Any:
        """Give *logger* a handler, unless it has one."""
        return super().setup_handlers(logger, logfile, "", False, formatter=lambda *_, **__: JsonFormatter())


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether to log *record*: lines about doorbells are logged only at level DEBUG."""
    data = getattr(record, "data", None)
    is_doorbell = record.levelno == logging.INFO and isinstance(data, dict) and data.get("name") == names.DRAIN_TASK
    return not is_doorbell or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
