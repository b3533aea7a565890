"""Makes every worker sweep, by a timer of its own: this needs no queue, no other host, and no clock but Redis'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from celery.bootsteps import RUN  # type: ignore[attr-defined]  # celery-types lacks it


def sweep_regularly(
    app: Celery, sweep: Callable[[Any], None], interval_s: float, *, end: Callable[[Any], None]
) -> None:
    """Have *app*'s workers call *sweep* whenever they connect, and every *interval_s* while they are connected.

    A worker that ends calls *end*. Both get Celery's consumer.
    """

    class Sweeper(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        # Any: Celery passes its consumer, which is untyped.
        def __init__(self, consumer: Any, **kwargs: Any) -> None:
            super().__init__(consumer, **kwargs)
            self._timer: Any = None

        def start(self, consumer: Any) -> None:
            sweep(consumer)
            self._timer = consumer.timer.call_repeatedly(interval_s, sweep, (consumer,))

        def stop(self, consumer: Any) -> None:
            if self._timer is not None:
                consumer.timer.cancel(self._timer)
                self._timer = None
            if consumer.blueprint.state != RUN:  # else it reconnects
                end(consumer)

        shutdown = stop

    app.steps["consumer"].add(Sweeper)
