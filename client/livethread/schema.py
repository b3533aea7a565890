"""JSON schemas of everything that crosses the store's boundary, generated from the models into `docs/schema`.

Parameters, patches, items and tasks have input schemas, results have output schemas. The schema is the contract:
the code also accepts a number for a time, or ``"5"`` for 5, but does not promise to. A later release may add fields to
results.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from typing import Any, Final, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from livethread import metadata, ordered_tasks, types
from livethread.model import LINE_TIME_SCHEMA
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import KEY_FIELD

DIALECT: Final = GenerateJsonSchema.schema_dialect

#: Names of the schemas of a mailbox entry's field ``task``, and of one line of its field ``lines``.
ORDERED_TASK: Final = "OrderedTask"
ROLLOUT_LINE: Final = "RolloutLine"

#: Models of input: parameters, patches, items and tasks.
READ: Final[tuple[type[Any], ...]] = (
    types.CreateThreadParams,
    types.ResumeThreadParams,
    types.AppendThreadItemsParams,
    types.PersistThreadParams,
    types.FlushThreadParams,
    types.ShutdownThreadParams,
    types.DiscardThreadParams,
    types.LoadThreadHistoryParams,
    types.ReadThreadParams,
    types.ReadThreadByRolloutPathParams,
    types.PrepareForkParams,
    types.ListThreadsParams,
    types.SearchThreadsParams,
    types.SearchOccurrencesParams,
    types.ListTurnsParams,
    types.ListItemsParams,
    types.UpdateThreadMetadataParams,
    types.WatchThreadParams,
    types.ArchiveThreadParams,
    types.ArchiveThreadsParams,
    types.DeleteThreadParams,
    types.DeleteThreadsParams,
    types.FindThreadByNameParams,
    metadata.ThreadMetadataPatch,
    metadata.GitInfoPatch,
    RolloutItem,
    ordered_tasks.CreateThread,
    ordered_tasks.AppendItems,
    ordered_tasks.UpdateThreadMetadata,
    ordered_tasks.ArchiveThread,
    ordered_tasks.UnarchiveThread,
    ordered_tasks.DeleteThread,
)

#: Models of output: results.
WRITTEN: Final[tuple[type[Any], ...]] = (
    types.Receipt,
    types.ThreadResults,
    metadata.StoredThread,
    metadata.StoredThreadHistory,
    metadata.StoredModelContext,
    types.ThreadPage,
    types.ThreadSearchPage,
    types.OccurrencePage,
    types.TurnPage,
    types.ItemPage,
    types.PreparedFork,
)

_FIELD: Final = re.compile(r"    (\w+): ")
_COMMENT: Final = re.compile(r"    #: (.*)")


def schemas() -> dict[str, JsonSchemaValue]:
    """Return every schema by its name; each is self-contained."""
    bodies = {model.__name__: _of_model(model, "validation") for model in READ}
    bodies[ORDERED_TASK] = _ordered_task()
    bodies[ROLLOUT_LINE] = _rollout_line(bodies[RolloutItem.__name__])
    bodies |= {model.__name__: _of_model(model, "serialization") for model in WRITTEN}
    return {name: _with_head(name, body) for name, body in bodies.items()}


def _with_head(name: str, schema: JsonSchemaValue) -> JsonSchemaValue:
    head = {"$schema": DIALECT, "$id": f"urn:livethread:schema:{name}"}
    return head | {"title": name, "description": schema["description"]} | schema


def _of_model(model: type[Any], mode: Literal["validation", "serialization"]) -> JsonSchemaValue:
    return TypeAdapter(model).json_schema(mode=mode, schema_generator=_Generator)


def _ordered_task() -> JsonSchemaValue:
    schema = ordered_tasks.TASK_HEADER.json_schema(schema_generator=_Generator)
    return schema | {"description": "The field ``task`` of a mailbox entry: one change of one thread."}


def _rollout_line(item: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of an item's line in a mailbox: it has a time, but none of the fields that the store adds."""
    fields = {name: field for name, field in item["properties"].items() if name != "ordinal"}
    store_fields = dict.fromkeys(("ordinal", "seq", "position", KEY_FIELD), False)
    time = {
        **LINE_TIME_SCHEMA,
        "description": "The line's time. It comes first: the store inserts its fields after it.",
    }
    return item | {
        "title": ROLLOUT_LINE,
        "description": "One line of a mailbox entry's field ``lines``.\n\nCompact JSON in UTF-8. When the store writes the "
        "line into the rollout, it adds ``ordinal``, ``seq``, ``position`` and the idempotency key of the append.",
        "properties": {"timestamp": time} | fields | {"timestamp": time} | store_fields,
        "required": ["timestamp", "type", "payload"],
    }


class _Generator(GenerateJsonSchema):
    """Adds the comments of fields as descriptions, and allows results more fields."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return self._described(schema["cls"], super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return self._described(schema["cls"], super().dataclass_schema(schema))

    def _described(self, model: type[Any], made: JsonSchemaValue) -> JsonSchemaValue:
        for name, comment in field_comments(model).items():
            field = made["properties"].get(name)
            if field is not None:
                field["description"] = f"{comment} {field.get('description', '')}".strip()
        if self.mode == "serialization":
            _open(made)
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        """Omit the titles of fields, which only repeat their names."""
        return False


def _open(result: JsonSchemaValue) -> None:
    """Allow *result* more fields than are known now, and require the known ones."""
    if result.get("additionalProperties") is False:
        del result["additionalProperties"]
    for field in result["properties"].values():
        field.pop("default", None)


def field_comments(model: type[Any]) -> dict[str, str]:
    """Return the ``#:`` comments of a model's fields; its own override its bases'."""
    comments: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base not in {object, BaseModel}:
            comments |= _comments_of(base.__module__, base.__qualname__)
    return comments


@cache  # to find the source of a class, Python parses its whole file
def _comments_of(module: str, name: str) -> dict[str, str]:
    comments: dict[str, str] = {}
    pending: list[str] = []
    for line in inspect.getsource(getattr(sys.modules[module], name)).splitlines():
        if comment := _COMMENT.fullmatch(line):
            pending.append(comment[1])
            continue
        if pending and (field := _FIELD.match(line)):
            comments[field[1]] = " ".join(pending)
        pending = []
    return comments
