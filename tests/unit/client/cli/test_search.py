"""``livethread search``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.nodes.items import said
from tests.store_spec.operations import stored
from tests.store_spec.turns import answered, turn

from livethread import Settings
from livethread.cli import main
from livethread_worker.store import LocalThreadStore


@pytest.fixture
async def thread_id(tmp_path: Path) -> str:
    async with LocalThreadStore(Settings(home=tmp_path, redis_url=None)) as store:
        await stored(store, said("nothing"))
        return await stored(store, *turn("t1", said("call foo_bar(x)"), answered("FOO_BAR [b] called")))


def run(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["search", *arguments], env={"LIVETHREAD_HOME": str(tmp_path)})


def test_threads_are_shown_with_the_match(tmp_path: Path, thread_id: str) -> None:
    for arguments in (["oo_bar(x)"], ["--words", "foo call*"]):
        [found] = run(tmp_path, *arguments).output.splitlines()
        assert found.split("\t")[::2] == [thread_id, "call foo_bar(x)"]
    found = json.loads(run(tmp_path, "oo_bar", "--json").output)

    assert [each["thread"]["thread_id"] for each in found["items"]] == [thread_id]
    home = f"the home {tmp_path}"
    assert run(tmp_path, "--words", "oo_bar").output == f"no text 'oo_bar' in {home} with --words\n"
    assert run(tmp_path, "--archived", "foo").output == f"no text 'foo' in {home} with --archived\n"


def test_each_occurrence_in_one_thread_is_shown_page_by_page(tmp_path: Path, thread_id: str) -> None:
    first = run(tmp_path, "foo_bar", "--thread", thread_id, "-n", "1").output.splitlines()
    cursor = first[1].removeprefix("more: --cursor ")
    rest = run(tmp_path, "foo_bar", "--thread", thread_id, "--cursor", cursor).output.splitlines()
    found = json.loads(run(tmp_path, "foo_bar", "--thread", thread_id, "--json").output)

    assert [first[0], *rest] == ["t1\tuser\tcall foo_bar(x)", "t1\tassistant\tFOO_BAR [b] called"]
    assert [(each["start"], each["end"]) for each in found["items"]] == [(5, 12), (0, 7)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thread", "x", "--words", "a"], "omit --words"),
        ([" "], "not a space"),
        (["--words", "!"], "one word"),
        ([""], "Error: search_term: String should have at least 1 character"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(tmp_path, *arguments)

    assert result.exit_code != 0
    assert message in result.output
