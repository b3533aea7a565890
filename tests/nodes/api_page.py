"""docs/api.md, made from signatures, docstrings and the comments of fields: ``python -m tests.nodes.api_page``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import livethread
from livethread.schema import field_comments

PAGE: Final = Path(__file__).parents[2] / "docs" / "api.md"

FUNCTIONS: Final = (livethread.open_store, livethread.is_persisted, livethread.new_thread_id)
CLASSES: Final[tuple[type[Any], ...]] = (
    livethread.LiveThread,
    livethread.LiveThreadInitGuard,
    livethread.ThreadManager,
    livethread.ThreadStore,
    livethread.ThreadReader,
    livethread.WatchingReader,
)
#: Modules of the parameters and results.
MODELS: Final = ("livethread.types", "livethread.metadata", "livethread.rollout.item", "livethread.thread_manager")

HEAD: Final = """# API

Made from the code by `make docs`: change the code, not this page. All names are in `livethread`;
[quickstart.md](quickstart.md) shows them in use and says what to do about each error. Each method of a store takes one
parameter object, and a store has the methods of `ThreadReader` and `WatchingReader`, too. A field that is unknown or
malformed raises `InvalidRequest`.
"""

#: Meanings of fields without a comment in the code: those that pages and reads share, and the thread's metadata.
MEANINGS: Final = {
    "thread_id": "The thread.",
    "thread_ids": "At most 1,000.",
    "turn_id": "The turn; None: every turn.",
    "cursor": "Where the page begins: a cursor from an earlier page. None: at the beginning.",
    "page_size": "1 to 1,000.",
    "include_archived": "False: an archived thread is not found.",
    "include_history": "Return the items, too.",
    **field_comments(livethread.StoredThread),
    **field_comments(livethread.CreateThreadParams),
}


def page() -> str:
    """Return the text of docs/api.md."""
    lines = [HEAD, "## Functions\n"]
    for function in FUNCTIONS:
        lines += _call(function.__name__, function)
    for cls in CLASSES:
        lines.append(f"## {cls.__name__}\n\n{_prose(cls)}\n")
        for name, member in vars(cls).items():
            if not name.startswith("_") and (isinstance(member, property | classmethod) or inspect.isroutine(member)):
                lines += _call(f"{cls.__name__}.{name}", member)
    lines.append("## Parameters and results\n")
    for model in _models():
        lines += [f"### {model.__name__}\n\n{_prose(model)}\n", *_content(model), ""]
    return "\n".join(lines).rstrip() + "\n"


def _models() -> list[type[Any]]:
    public = [getattr(livethread, name) for name in sorted(livethread.__all__)]
    classes = [value for value in public if isinstance(value, type) and value.__module__.startswith(MODELS)]
    return [cls for cls in classes if issubclass(cls, BaseModel | StrEnum) or is_dataclass(cls)]


def _call(name: str, member: Any) -> Iterator[str]:
    yield f"### {name}\n"
    if not isinstance(member, property):
        function = inspect.unwrap(getattr(member, "__func__", member))
        signature = re.sub(r"\b(types\.|self, |cls, |self(?=\)))|'", "", str(inspect.signature(function)))
        is_awaited = inspect.iscoroutinefunction(function)
        yield f"```python\n{'await ' if is_awaited else ''}{name.rpartition('.')[2]}{signature}\n```\n"
    yield _prose(member) + "\n"


def _prose(value: Any) -> str:
    """Return the docstring of *value*, with the errors as a list."""
    text, _, errors = (inspect.getdoc(value) or "").replace("``", "`").partition("Raises:\n")
    listed = re.sub(r"^    (\w+):", r"- `\1`:", errors, flags=re.MULTILINE).replace("\n        ", "\n  ")
    return f"{text.strip()}\n\nRaises\n\n{listed}".strip() if listed else text.strip()


def _content(model: type[Any]) -> Iterator[str]:
    if issubclass(model, StrEnum):
        yield f"Values: {', '.join(f'`{value}`' for value in model)}"
        return
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    hints, comments = get_type_hints(model), field_comments(model)
    for name, default in _defaults(model).items():
        cells = f"`{name}`", f"`{_type(hints[name])}`", default, comments.get(name) or MEANINGS.get(name, "")
        yield f"| {' | '.join(cells).replace('``', '`')} |"


def _type(hint: Any) -> str:
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_type, parts))  # a bar would end the table's cell
    name = "None" if hint is NoneType else "..." if hint is ... else hint.__name__
    return f"{name}[{', '.join(map(_type, parts))}]" if parts else name


def _defaults(model: type[Any]) -> dict[str, str]:
    known = model.model_fields if issubclass(model, BaseModel) else {field.name: field for field in fields(model)}
    return {name: _default(field.default, field.default_factory) for name, field in known.items()}


def _default(value: Any, factory: Any) -> str:
    if factory not in (None, MISSING):
        return f"`{factory.__name__}()`" if factory.__name__.isidentifier() else "codex's"
    return "required" if value in (PydanticUndefined, MISSING) else f"`{value!s}`" if value != "" else "empty"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
