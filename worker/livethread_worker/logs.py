"""What a worker logs, and in which form."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.app.log import Logging

from livethread.json_logs import JsonFormatter
from livethread_config import Settings, names


def set_up_logs(app: Celery, settings: Settings) -> None:
    """Have *app*'s workers log in the form that the settings say, without Celery's lines about doorbells."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_is_worth_a_line)
    if settings.log_format == "json":
        app.log_cls = f"{__name__}:JsonLogging"


class JsonLogging(Logging):
    """Sets up Celery's handlers with JSON lines, whatever format Celery has for them."""

    # Any: Celery's types of these are incomplete.
    def setup_handlers(self, logger: Any, logfile: Any, *_: Any, **__: Any) -> Any:
        """Give *logger* a handler, unless it has one."""
        return super().setup_handlers(logger, logfile, "", False, formatter=lambda *_, **__: JsonFormatter())


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether *record* is not about a doorbell that came or was answered, or debug lines are wanted."""
    data = getattr(record, "data", None)
    is_doorbell = record.levelno == logging.INFO and isinstance(data, dict) and data.get("name") == names.DRAIN_TASK
    return not is_doorbell or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
