"""``livethread rename``, ``archive``, ``unarchive`` and ``delete``, from the home's host and from another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.nodes.items import read, said
from tests.store_spec.operations import stored

from livethread import Settings, ThreadNotFound, new_thread_id, open_store
from livethread.cli import main
from livethread.store import ThreadStore
from livethread_worker.store import LocalThreadStore


@pytest.fixture(params=["here", "elsewhere"])
def environment(request: pytest.FixtureRequest, served: Settings) -> dict[str, str | None]:
    """The variables of a deployment whose worker runs."""
    is_here = request.param == "here"
    return {
        "LIVETHREAD_REDIS_URL": served.redis_url,
        "LIVETHREAD_KEY_PREFIX": served.key_prefix,
        "LIVETHREAD_HOME": str(served.home) if is_here else None,
        "LIVETHREAD_READS": "local" if is_here else "celery",
        "LIVETHREAD_CONNECT_TIMEOUT_S": "30",  # other tests may load the machine
    }


@pytest.fixture
async def store(served: Settings) -> AsyncIterator[ThreadStore]:
    async with open_store(served) as store:
        yield store


async def run(environment: Mapping[str, str | None], *arguments: str, answer: str | None = None) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, input=answer, env=environment)


async def changed(environment: Mapping[str, str | None], *arguments: str) -> list[Any]:
    """Return the JSON that a command prints which must succeed."""
    result = await run(environment, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[Any] = json.loads(result.stdout)
    return found


async def test_a_thread_is_renamed_archived_unarchived_and_deleted(
    store: ThreadStore, environment: Mapping[str, str | None]
) -> None:
    thread_id = await stored(store)
    name = f"name of {thread_id}"

    [renamed] = await changed(environment, "rename", thread_id, name)
    assert (await read(store, thread_id)).name == name
    assert (renamed["thread_id"], renamed["is_applied"], renamed["reason"]) == (thread_id, True, None)
    await changed(environment, "archive", name)
    assert (await read(store, thread_id)).archived_at is not None
    await changed(environment, "unarchive", name)
    assert (await read(store, thread_id)).archived_at is None
    await changed(environment, "rename", name, "")
    assert (await read(store, thread_id)).name is None
    await changed(environment, "delete", thread_id, "--yes")
    with pytest.raises(ThreadNotFound):
        await read(store, thread_id)


async def test_several_threads_are_deleted_after_the_question_is_answered(
    store: ThreadStore, environment: Mapping[str, str | None]
) -> None:
    name = f"name of {new_thread_id()}"
    first, second = await stored(store, name=name), await stored(store, said("x"))

    for answer in ("n\n", ""):
        refused = await run(environment, "delete", name, second, answer=answer)
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"{first} ({name})\n{second} (nothing was asked)\nDelete these 2 threads")
        assert [(await read(store, each)).thread_id for each in (first, second)] == [first, second]
    done = await run(environment, "delete", name, second, name, answer="y\n")

    assert done.exit_code == 0
    assert done.stdout.splitlines() == [f"deleted: {first} ({name})", f"deleted: {second} (nothing was asked)"]


async def test_if_one_thread_is_not_found_none_is_changed(
    store: ThreadStore, environment: Mapping[str, str | None]
) -> None:
    thread_id, missing = await stored(store), new_thread_id()

    result = await run(environment, "archive", thread_id, missing)

    assert result.exit_code == 1
    assert f"Error: thread {missing} not found" in result.stderr
    assert (await read(store, thread_id)).archived_at is None


async def test_a_refused_change_keeps_no_other_from_being_made(
    store: ThreadStore, environment: Mapping[str, str | None]
) -> None:
    source, other = await stored(store), await stored(store)
    fork = await stored(store, forked_from_id=source, attached_thread=True)

    result = await run(environment, "delete", source, other, "--yes")

    assert result.exit_code == 1
    assert result.stdout == f"deleted: {other} (nothing was asked)\n"
    assert result.stderr.startswith(f"not deleted: {source} (nothing was asked): ")
    assert fork in result.stderr


async def test_what_no_worker_applies_in_time_is_said_to_be_accepted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with LocalThreadStore(settings) as local:
        first, second = await stored(local), await stored(local)
    for name in ("redis_url", "key_prefix", "home"):
        monkeypatch.setenv(f"LIVETHREAD_{name}".upper(), str(getattr(settings, name)))

    result = await run({"LIVETHREAD_FLUSH_TIMEOUT_S": "0.1"}, "archive", first, second)

    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(": accepted, and not applied yet")[0] for line in lines] == [
        f"will be archived: {each} (nothing was asked)" for each in (first, second)
    ]
    assert "No worker has ever looked" in lines[0]


async def test_no_home_is_created_for_a_change(tmp_path: Path) -> None:
    environment = {"LIVETHREAD_HOME": str(tmp_path / "home"), "LIVETHREAD_REDIS_URL": ""}

    result = await run(environment, "archive", new_thread_id())

    assert result.stderr == f"Error: the home {tmp_path / 'home'} does not exist, so it has no thread\n"
    assert not (tmp_path / "home").exists()
