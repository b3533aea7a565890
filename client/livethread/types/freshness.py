"""How fresh a read must be."""

from __future__ import annotations

from typing import Any, Final, Self

from livethread.model import Model
from livethread.position import Position

#: The fields of parameters that say how fresh a read must be, with their defaults.
FRESHNESS: Final[dict[str, Any]] = {"fresh": False, "at_least": None}


class Freshness(Model):
    """How fresh a read must be. By default it shows what is applied, and what this store had accepted for its thread."""

    #: Whether it shows everything that was accepted before the call, from any store.
    fresh: bool = False

    def without_demand(self) -> Self:
        """Return the same parameters with the default freshness."""
        demands = self.model_fields_set & FRESHNESS.keys()
        return self.model_copy(update={name: FRESHNESS[name] for name in demands}) if demands else self


class ThreadFreshness(Freshness):
    """How fresh a read of one thread must be."""

    #: Show everything up to this position, as of a `Receipt`; later tasks may show, too.
    at_least: Position | None = None

    @property
    def is_demanding(self) -> bool:
        """Whether it demands more than the default."""
        return self.fresh or self.at_least is not None
