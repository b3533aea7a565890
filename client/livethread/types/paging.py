"""What the parameters of every page share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

PageSize = Annotated[int, Field(ge=1, le=1000)]


class SortDirection(StrEnum):
    """Older or newer threads first."""

    ASC = "asc"
    DESC = "desc"
