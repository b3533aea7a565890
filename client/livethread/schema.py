"""JSON schemas of what crosses the store's boundary, made from the models: `docs/schema` is their printout.

Parameters, patches, items and tasks are described as they are read, results as they are written. A schema is the
contract: that the code reads more (a number for a time, ``"5"`` for 5) is no promise. Results are open: a later release
may add fields to them.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, Final, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from livethread import metadata, ordered_tasks, types
from livethread.model import LINE_TIME_SCHEMA
from livethread.rollout.item import RolloutItem
from livethread.rollout.lines import KEY_FIELD

DIALECT: Final = GenerateJsonSchema.schema_dialect

#: The field ``task`` of a mailbox entry, and one line of its field ``lines``.
ORDERED_TASK: Final = "OrderedTask"
ROLLOUT_LINE: Final = "RolloutLine"

#: What is read: models of parameters, patches, items and tasks.
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
    types.ListThreadsParams,
    types.SearchThreadsParams,
    types.ListTurnsParams,
    types.ListItemsParams,
    types.UpdateThreadMetadataParams,
    types.ArchiveThreadParams,
    types.DeleteThreadParams,
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

#: What is written: models of results.
WRITTEN: Final[tuple[type[Any], ...]] = (
    types.Receipt,
    metadata.StoredThread,
    metadata.StoredThreadHistory,
    types.ThreadPage,
    types.ThreadSearchPage,
    types.TurnPage,
    types.ItemPage,
)

_FIELD: Final = re.compile(r"    (\w+): ")
_COMMENT: Final = re.compile(r"    #: (.*)")


def schemas() -> dict[str, JsonSchemaValue]:
    """Return every schema by its name, each whole in itself, in the order of the list."""
    made = {model.__name__: _of_model(model, "validation") for model in READ}
    made[ORDERED_TASK] = _ordered_task()
    made[ROLLOUT_LINE] = _rollout_line(made[RolloutItem.__name__])
    made |= {model.__name__: _of_model(model, "serialization") for model in WRITTEN}
    return {name: _headed(name, schema) for name, schema in made.items()}


def _headed(name: str, schema: JsonSchemaValue) -> JsonSchemaValue:
    head = {"$schema": DIALECT, "$id": f"urn:livethread:schema:{name}"}
    return head | {"title": name, "description": schema["description"]} | schema


def _of_model(model: type[Any], mode: Literal["validation", "serialization"]) -> JsonSchemaValue:
    return TypeAdapter(model).json_schema(mode=mode, schema_generator=_Generator)


def _ordered_task() -> JsonSchemaValue:
    schema = ordered_tasks.TASK_HEADER.json_schema(schema_generator=_Generator)
    return schema | {"description": "The field ``task`` of a mailbox entry: one change of one thread."}


def _rollout_line(item: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of an item on its way into the rollout: it has its time, and nothing of the store's."""
    fields = {name: field for name, field in item["properties"].items() if name != "ordinal"}
    the_stores = dict.fromkeys(("ordinal", "seq", KEY_FIELD), False)
    time = {**LINE_TIME_SCHEMA, "description": "The line's time; the first key, so that the store's stand behind it."}
    return item | {
        "title": ROLLOUT_LINE,
        "description": "One line of the field ``lines`` of a mailbox entry, and of a rollout.\n\n"
        "Compact JSON in UTF-8. The store adds ``ordinal``, ``seq`` and the key of the append when it writes it.",
        "properties": {"timestamp": time} | fields | {"timestamp": time} | the_stores,
        "required": ["timestamp", "type", "payload"],
    }


class _Generator(GenerateJsonSchema):
    """Says what pydantic does not know: fields' comments, and that a result may hold more fields."""

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
        """Leave titles to the models: a field's says its name again."""
        return False


def _open(result: JsonSchemaValue) -> None:
    """Let *result* have more fields than are known now; those that are known are always there."""
    if result.get("additionalProperties") is False:
        del result["additionalProperties"]
    for field in result["properties"].values():
        field.pop("default", None)


def field_comments(model: type[Any]) -> dict[str, str]:
    """Return what the ``#:`` comments before a model's fields say; its own overrule those of its bases."""
    comments: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base in {object, BaseModel}:
            continue
        pending: list[str] = []
        for line in inspect.getsource(base).splitlines():
            if comment := _COMMENT.fullmatch(line):
                pending.append(comment[1])
                continue
            if pending and (field := _FIELD.match(line)):
                comments[field[1]] = " ".join(pending)
            pending = []
    return comments
