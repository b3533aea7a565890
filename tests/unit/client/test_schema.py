"""docs/schema is generated from the models, and the models accept what its schemas accept."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from livethread import (
    AppendThreadItemsParams,
    ArchiveThreadsParams,
    CreateThreadParams,
    GitInfo,
    GitInfoPatch,
    InMemoryThreadStore,
    InvalidRequest,
    ListItemsParams,
    ListThreadsParams,
    ListTurnsParams,
    LiveThread,
    LoadThreadHistoryParams,
    MemoryMode,
    PrepareForkParams,
    ReadThreadParams,
    SearchOccurrencesParams,
    SearchThreadsParams,
    StoredTurnItemsView,
    ThreadMetadataPatch,
    ThreadStore,
)
from livethread import types as wire_types
from livethread.cli import main
from livethread.cli.output import as_indented_json
from livethread.model import Model
from livethread.ordered_tasks import AppendItems, CreateThread, OrderedTask, TaskHeader, UpdateThreadMetadata
from livethread.rollout.item import parse_items
from livethread.rollout.lines import encode_items
from livethread.rollout.session_meta import session_meta
from livethread.schema import READ, WRITTEN, field_comments, schemas
from livethread.thread_id import new_thread_id

FOLDER = Path(__file__).parents[3] / "docs" / "schema"
AT = datetime(2026, 11, 22, 12, 0, 0, 123_000, tzinfo=UTC)
TIME = "2026-11-22T12:00:00.123Z"
ID = "019a93b9-f380-7600-98ff-940e6b99603c"
META = {"id": ID, "timestamp": TIME, "cwd": "/repo", "originator": "elsewhere", "cli_version": "1"}
SAID = {"type": "event_msg", "payload": {"type": "user_message", "message": "hi"}}


@cache
def stored(name: str) -> dict[str, Any]:
    """Return the schema in a file, as a program in another language reads it."""
    schema: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def complaints(name: str, value: Any) -> list[str]:
    errors = Draft202012Validator(stored(name)).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


# -- the files ---------------------------------------------------------------------------------------------


def test_the_files_are_current() -> None:
    made = {name: as_indented_json(schema) + b"\n" for name, schema in schemas().items()}

    kept = {path.stem: path.read_bytes() for path in FOLDER.iterdir()}

    superfluous = sorted(kept.keys() - made.keys())
    outdated = sorted(name for name in made if kept.get(name) != made[name])
    assert (superfluous, outdated) == ([], []), (
        "remove superfluous files, and run: livethread schema --out docs/schema"
    )


@pytest.mark.parametrize("name", list(schemas()))
def test_each_file_is_a_self_contained_schema_of_the_2020_dialect(name: str) -> None:
    schema = stored(name)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["$id"], schema["title"]) == (f"urn:livethread:schema:{name}", name)
    assert all(reference.startswith("#/$defs/") for reference in references(schema))


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for member in value.values():
                yield from references(member)
        case list():
            for member in value:
                yield from references(member)


def test_every_operation_has_schemas_of_its_parameters_and_result() -> None:
    scope = vars(wire_types) | {model.__name__: model for model in (*READ, *WRITTEN)}
    taken, given = set(), set()
    for _, operation in inspect.getmembers(ThreadStore, inspect.isfunction):
        hints = typing.get_type_hints(operation, operation.__globals__ | scope)
        given.add(hints.pop("return", None))
        taken |= set(hints.values())

    assert CreateThreadParams in taken
    assert {kind for kind in taken if is_model(kind)} <= set(READ)
    assert {kind for kind in given if is_model(kind)} == set(WRITTEN)


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))


def test_a_fields_comment_is_its_description() -> None:
    [comment] = field_comments(Commented).values()

    assert comment == "One line, and another."
    assert "rollout, from 0" in stored("RolloutItem")["properties"]["ordinal"]["description"]


class Commented(Model):
    uncommented: int
    #: One line,
    #: and another.
    commented: int


# -- input -------------------------------------------------------------------------------------------------

TASK_OK: list[dict[str, Any]] = [
    {
        "op": "update_thread_metadata",
        "at": TIME,
        "patch": {"thread_source": "", "source": "", "reasoning_effort": None},
    },
    {"op": "create_thread", "at": TIME, "session_meta": META},
    {"op": "create_thread", "at": TIME, "session_meta": {**META, "source": {"custom": "x"}, "more": [None]}},
    {"op": "append_items", "at": "2026-11-22T13:00:00+01:00"},
    {"op": "append_items", "at": "2026-11-22T12:00:00Z"},
    {"op": "update_thread_metadata", "at": TIME, "patch": {}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"name": None, "preview": None}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"git_info": {"sha": None}, "memory_mode": "enabled"}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"approval_mode": ["x"], "advance_recency_at": TIME}},
    {"op": "append_items", "at": TIME, "idempotency_key": "k" * 200},
    {"op": "append_items", "at": TIME, "idempotency_key": None},
    {"op": "append_items", "at": TIME, "idempotency_key": "é 🎉"},
    {
        "op": "update_thread_metadata",
        "at": TIME,
        "patch": {"title": "t"},
        "only_if_unset": ["title"],
        "derived": True,
    },
    {"op": "update_thread_metadata", "at": TIME, "patch": {}, "only_if_unset": [], "derived": False},
    {"op": "archive_thread", "at": TIME},
    {"op": "unarchive_thread", "at": TIME},
    {"op": "delete_thread", "at": TIME},
]
TASK_BAD: list[Any] = [
    "append_items",
    {},
    {"at": TIME},
    {"op": "append_items"},
    {"op": "append", "at": TIME},
    {"op": "append_items", "at": "yesterday"},
    {"op": "append_items", "at": "2026-11-22T12:00:00"},
    {"op": "append_items", "at": "2026-11-22T24:00:00Z"},
    {"op": "append_items", "at": None},
    {"op": "append_items", "at": TIME, "items": []},
    {"op": "append_items", "at": TIME, "idempotency_key": ""},
    {"op": "append_items", "at": TIME, "idempotency_key": "k" * 201},
    {"op": "append_items", "at": TIME, "idempotency_key": "a\nb"},
    {"op": "append_items", "at": TIME, "idempotency_key": 7},
    {"op": "archive_thread", "at": TIME, "idempotency_key": "k"},
    {"op": "create_thread", "at": TIME},
    {"op": "create_thread", "at": TIME, "session_meta": []},
    {"op": "update_thread_metadata", "at": TIME},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"colour": "red"}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"name": 1}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"thread_source": {"custom": "x"}}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"source": {"a": 1, "b": 2}}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"source": {}}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"memory_mode": "on"}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"git_info": {"commit_hash": "x"}}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"token_usage": 7}},
    {"op": "update_thread_metadata", "at": TIME, "patch": {}, "observe": True},
    {"op": "update_thread_metadata", "at": TIME, "patch": {"model": "m"}, "only_if_unset": ["model"]},
    {"op": "update_thread_metadata", "at": TIME, "patch": {}, "derived": None},
    {"op": "append_items", "at": TIME, "observe": False},
    {"op": "delete_thread", "at": TIME, "patch": {}},
]
ITEM_OK: list[Any] = [
    SAID,
    {"type": "novel", "payload": None},
    {"type": "novel", "payload": 1, "more": "kept"},
    {**SAID, "timestamp": TIME, "ordinal": 7},
    {**SAID, "timestamp": None, "ordinal": None},
    {"type": "session_meta", "payload": {"id": "any"}},
]
ITEM_BAD: list[Any] = [
    [],
    {"type": "novel"},
    {"payload": {}},
    {"type": "", "payload": 1},
    {"type": "x" * 201, "payload": 1},
    {"type": 1, "payload": 1},
    {"type": "event_msg", "payload": {}},
    {"type": "event_msg", "payload": "text"},
    {"type": "response_item", "payload": {"type": 1}},
    {"type": "session_meta", "payload": {"type": "x"}},
    {"type": "thread_metadata", "payload": {}},
    {**SAID, "timestamp": "soon"},
    {**SAID, "timestamp": 1},
    {**SAID, "ordinal": "one"},
]
PARAMS_OK: list[tuple[str, Any]] = [
    ("CreateThreadParams", {}),
    ("CreateThreadParams", {"thread_id": ID.upper(), "source": {"subagent": "x"}, "git": {"branch": "main"}}),
    ("CreateThreadParams", {"dynamic_tools": [{}], "created_at": TIME, "thread_source": "automation"}),
    ("CreateThreadParams", {"source": "", "thread_source": "x" * 201}),
    ("CreateThreadParams", {"source": "x" * 201, "thread_source": ""}),
    ("ReadThreadParams", {"thread_id": ID, "include_history": True}),
    ("AppendThreadItemsParams", {"thread_id": ID, "items": [SAID], "expected_position": "0-0"}),
    ("FlushThreadParams", {"thread_id": ID, "timeout_s": 0.5}),
    ("ListThreadsParams", {"page_size": 1000, "allowed_sources": ["cli", {"custom": 1}], "cwd_filters": []}),
    ("ListThreadsParams", {"relation_filter": {"kind": "descendants", "thread_id": ID}, "sort_key": "recency_at"}),
    ("SearchThreadsParams", {"search_term": "x", "sort_key": None}),
]
PARAMS_BAD: list[tuple[str, Any]] = [
    ("CreateThreadParams", {"thread_id": "not-a-uuid"}),
    ("CreateThreadParams", {"thread_id": ID.replace("-", "")}),
    ("CreateThreadParams", {"thread_id": f"{{{ID}}}"}),
    ("CreateThreadParams", {"source": {}}),
    ("CreateThreadParams", {"source": None}),
    ("CreateThreadParams", {"thread_source": {"custom": "x"}}),
    ("CreateThreadParams", {"dynamic_tools": ["x"]}),
    ("CreateThreadParams", {"colour": "red"}),
    ("ReadThreadParams", {}),
    ("AppendThreadItemsParams", {"thread_id": ID, "items": [{"type": "event_msg", "payload": {}}]}),
    ("AppendThreadItemsParams", {"thread_id": ID, "items": [SAID], "expected_position": "1"}),
    ("FlushThreadParams", {"thread_id": ID, "timeout_s": 0}),
    ("ListThreadsParams", {"page_size": 0}),
    ("ListThreadsParams", {"page_size": 1001}),
    ("ListThreadsParams", {"sort_key": "name"}),
    ("ListThreadsParams", {"relation_filter": {"kind": "cousins", "thread_id": ID}}),
    ("SearchThreadsParams", {"search_term": ""}),
]


def read_params(name: str, value: Any) -> None:
    getattr(wire_types, name).model_validate_json(json.dumps(value))


def append(value: Any) -> None:
    encode_items(parse_items([value]), AT, max_bytes=100_000)


def read_task(value: Any) -> None:
    OrderedTask.from_wire(json.dumps(value).encode(), b"")


@pytest.mark.parametrize("value", TASK_OK, ids=json.dumps)
def test_schema_and_code_both_accept_a_task(value: Any) -> None:
    read_task(value)

    assert complaints("OrderedTask", value) == []
    assert complaints("".join(map(str.capitalize, value["op"].split("_"))), value) == []


@pytest.mark.parametrize("value", TASK_BAD, ids=json.dumps)
def test_schema_and_code_both_refuse_a_bad_task(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        read_task(value)

    assert complaints("OrderedTask", value) != []


@pytest.mark.parametrize("value", ITEM_OK, ids=json.dumps)
def test_schema_and_code_both_accept_an_item(value: Any) -> None:
    append(value)

    assert complaints("RolloutItem", value) == []


@pytest.mark.parametrize("value", ITEM_BAD, ids=json.dumps)
def test_schema_and_code_both_refuse_a_bad_item(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        append(value)

    assert complaints("RolloutItem", value) != []


@pytest.mark.parametrize(("name", "value"), PARAMS_OK)
def test_schema_and_code_both_accept_parameters(name: str, value: Any) -> None:
    read_params(name, value)

    assert complaints(name, value) == []


@pytest.mark.parametrize(("name", "value"), PARAMS_BAD)
def test_schema_and_code_both_refuse_bad_parameters(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        read_params(name, value)

    assert complaints(name, value) != []


def test_schema_and_code_both_refuse_an_append_without_items() -> None:
    with pytest.raises(InvalidRequest, match="at least one item"):
        encode_items(AppendThreadItemsParams(thread_id=ID, items=()).items, AT, max_bytes=1000)

    assert complaints("AppendThreadItemsParams", {"thread_id": ID, "items": []}) == [
        "$.items: [] should be non-empty"
    ]


@pytest.mark.parametrize("patch", [ThreadMetadataPatch, GitInfoPatch])
def test_a_patch_schema_says_which_fields_null_clears_and_has_no_defaults(
    patch: type[ThreadMetadataPatch | GitInfoPatch],
) -> None:
    schema = stored(patch.__name__)
    fields = schema["properties"]

    clearing = {field for field, schema in fields.items() if schema["description"].endswith("Null: clear.")}
    leaving = {field for field, schema in fields.items() if schema["description"].endswith("Absent or null: leave.")}

    assert clearing == patch.clearable
    assert leaving == fields.keys() - patch.clearable
    assert not any("default" in schema for schema in fields.values())
    assert "An absent field stays as it is" in schema["description"]


# -- tasks and lines that this library sends ---------------------------------------------------------------


def test_every_task_that_this_library_sends_fits_its_schema() -> None:
    full = CreateThreadParams(
        thread_id=ID,
        parent_thread_id=ID,
        source={"custom": "x"},
        thread_source="automation",
        base_instructions="be kind",
        dynamic_tools=({"name": "t"},),
        agent_role="r",
        memory_mode=MemoryMode.DISABLED,
        git=GitInfo(branch="main"),
        created_at=AT,
    )
    patch = ThreadMetadataPatch(name=None, git_info=GitInfoPatch(sha=None), created_at=AT, token_usage={"n": 1})
    headers: list[TaskHeader] = [
        CreateThread(at=AT, session_meta=session_meta(full)),
        CreateThread(at=AT.replace(microsecond=0), session_meta=session_meta(CreateThreadParams())),
        UpdateThreadMetadata(at=AT, patch=patch),
        UpdateThreadMetadata(
            at=AT, patch=ThreadMetadataPatch(title="t"), only_if_unset=frozenset({"title"}), derived=True
        ),
        AppendItems(at=AT),
        AppendItems(at=AT, idempotency_key="k"),
    ]

    sent = [json.loads(OrderedTask(header).to_wire()[0]) for header in headers]

    assert [complaints("OrderedTask", task) for task in sent] == [[]] * len(headers)


@pytest.mark.parametrize("value", ITEM_OK, ids=json.dumps)
def test_every_line_that_this_library_sends_fits_its_schema(value: Any) -> None:
    [line] = encode_items(parse_items([value]), AT, max_bytes=100_000)

    assert complaints("RolloutLine", json.loads(line)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp": None},
        {"timestamp": "2026-11-22T12:00:00Z"},
        {"timestamp": "2026-11-22T12:00:00.123+01:00"},
        {"seq": "w:1"},
        {"idempotency_key": "k"},
        {"ordinal": 1},
        {"ordinal": None},
        {"type": "thread_metadata"},
        {"payload": {}},
    ],
    ids=json.dumps,
)
def test_a_line_must_have_its_time_and_no_field_of_the_store(change: dict[str, Any]) -> None:
    line = {"timestamp": TIME, **SAID}

    assert complaints("RolloutLine", line) == []
    assert complaints("RolloutLine", line | change) != []
    assert complaints("RolloutLine", SAID) != []


# -- results -----------------------------------------------------------------------------------------------


async def results() -> dict[str, Any]:
    """Return a result of each kind, for a thread with items and turns."""
    async with InMemoryThreadStore() as store:
        thread = await LiveThread.create(
            store, CreateThreadParams(thread_id=ID, cwd="/repo", git=GitInfo(branch="b"))
        )
        started = {"type": "event_msg", "payload": {"type": "task_started", "turn_id": "1"}}
        receipt = await thread.append_items([started, SAID])
        await thread.flush()
        history = LoadThreadHistoryParams(thread_id=ID)
        return {
            "Receipt": receipt,
            "ThreadResults": await store.archive_threads(ArchiveThreadsParams(thread_ids=(ID, new_thread_id()))),
            "StoredModelContext": await store.load_latest_model_context(history),
            "StoredThread": await store.read_thread(ReadThreadParams(thread_id=ID, include_history=True)),
            "StoredThreadHistory": await store.load_history(history),
            "ThreadPage": await store.list_threads(ListThreadsParams(archived=True)),
            "ThreadSearchPage": await store.search_threads(SearchThreadsParams(search_term="hi", archived=True)),
            "OccurrencePage": await store.search_occurrences(SearchOccurrencesParams(thread_id=ID, search_term="h")),
            "TurnPage": await store.list_turns(ListTurnsParams(thread_id=ID, items_view=StoredTurnItemsView.FULL)),
            "ItemPage": await store.list_items(ListItemsParams(thread_id=ID)),
            "PreparedFork": await store.prepare_fork(PrepareForkParams(thread_id=ID)),
        }


def dumped(result: Any) -> dict[str, Any]:
    """Return *result* as a web framework writes it."""
    written: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return written


async def test_every_result_fits_its_schema() -> None:
    written = {name: dumped(result) for name, result in (await results()).items()}

    assert set(written) == {model.__name__ for model in WRITTEN}
    assert {name: complaints(name, value) for name, value in written.items()} == {name: [] for name in written}
    assert all(
        written[name]["items"] for name in ("StoredThreadHistory", "ThreadPage", "ThreadSearchPage", "ItemPage")
    )
    assert written["TurnPage"]["turns"][0]["items"]


async def test_a_results_schema_requires_each_field_and_allows_new_ones() -> None:
    for name, result in (await results()).items():
        written = dumped(result)

        for field in written:
            without = {key: value for key, value in written.items() if key != field}
            assert complaints(name, without) == [f"$: {field!r} is a required property"]
        first = next(iter(written))
        assert complaints(name, written | {first: 7}) != []
        assert complaints(name, written | {"of_a_later_release": 1}) == []


# -- the command -------------------------------------------------------------------------------------------


def run(*args: str) -> Any:
    return CliRunner().invoke(main, ["schema", *args])


def test_the_command_lists_the_schemas() -> None:
    table, listed = run(), run("--json")

    assert [line.split()[0] for line in table.output.splitlines()] == list(schemas())
    assert list(json.loads(listed.output)) == list(schemas())
    assert json.loads(listed.output)["Receipt"].startswith("A task is ordered and accepted")


def test_the_command_prints_one_schema() -> None:
    assert json.loads(run("RolloutItem").output) == stored("RolloutItem")


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    every, one = run("--out", str(tmp_path / "new" / "all")), run("Receipt", "--out", str(tmp_path / "one"))

    assert (every.exit_code, one.exit_code) == (0, 0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new" / "all").iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["Receipt.json"]


def test_the_command_refuses_an_unknown_schema() -> None:
    result = run("Nothing")

    assert result.exit_code == 2
    assert "unknown schema Nothing" in result.output
