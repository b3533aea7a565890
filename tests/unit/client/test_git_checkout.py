from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.nodes.waiting import wait_until

from livethread import CreateThreadParams, GitInfo, InMemoryThreadStore, LiveThread, ThreadManager, git_checkout
from livethread.git_checkout import read_git

URL = "https://example.com/r.git"


def git(folder: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    env = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a commit on the branch ``topic``, and the remote ``origin``."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--initial-branch=topic")
    git(folder, "commit", "--allow-empty", "-m", "first")
    git(folder, "remote", "add", "origin", URL)
    return folder


@pytest.fixture
async def store() -> AsyncIterator[InMemoryThreadStore]:
    async with InMemoryThreadStore() as store:
        yield store


async def created_in(store: InMemoryThreadStore, thread: LiveThread) -> GitInfo | None:
    await thread.persist()
    return (await thread.read_thread()).git_info


async def test_a_checkout_has_a_commit_a_branch_and_a_remote(checkout: Path) -> None:
    below = checkout / "a" / "b"
    below.mkdir(parents=True)

    expected = GitInfo(commit_hash=git(checkout, "rev-parse", "HEAD"), branch="topic", repository_url=URL)
    assert await read_git(str(checkout)) == await read_git(str(below)) == expected


async def test_a_detached_checkout_has_no_branch(checkout: Path) -> None:
    git(checkout, "checkout", "--detach")
    git(checkout, "remote", "remove", "origin")

    assert await read_git(str(checkout)) == GitInfo(commit_hash=git(checkout, "rev-parse", "HEAD"))


async def test_a_linked_checkout_has_its_own_branch(checkout: Path) -> None:
    linked = checkout.parent / "linked"
    git(checkout, "worktree", "add", "-b", "other", str(linked))

    found = await read_git(str(linked))

    assert found is not None
    assert (found.branch, found.repository_url) == ("other", URL)


async def test_a_checkout_without_a_commit_has_only_a_remote(checkout: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init")

    assert await read_git(str(empty)) is None
    git(empty, "remote", "add", "origin", URL)
    assert await read_git(str(empty)) == GitInfo(repository_url=URL)


@pytest.mark.parametrize("cwd", ["/nowhere", "relative", "", "\0", "~"])
async def test_a_directory_outside_of_any_checkout_has_no_git(cwd: str) -> None:
    assert await read_git(cwd) is None


async def test_a_missing_git_is_not_an_error(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert await read_git(str(checkout)) is None


async def test_git_is_asked_about_the_directory_though_the_process_is_in_a_hook_of_another(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))

    found = await read_git(str(checkout))

    assert found is not None
    assert found.branch == "topic"


async def test_a_git_that_hangs_is_given_up_and_ended_while_the_loop_goes_on(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec tail -f /dev/null\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(git_checkout, "GIT_TIMEOUT_S", 0.5)

    reading = asyncio.create_task(read_git(str(checkout)))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0.001)

    assert await reading is None
    assert turns > 1
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(map(_exists, pids)), "the end of every git")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_new_thread_has_the_git_of_its_directory(store: InMemoryThreadStore, checkout: Path) -> None:
    params = CreateThreadParams(cwd=str(checkout))

    collected = await created_in(store, await LiveThread.create(store, params))

    assert collected is not None
    assert collected == await read_git(str(checkout))


async def test_a_given_git_counts(store: InMemoryThreadStore, checkout: Path) -> None:
    given = CreateThreadParams(cwd=str(checkout), git=GitInfo(branch="given"))

    assert await created_in(store, await LiveThread.create(store, given)) == GitInfo(branch="given")


async def test_collecting_git_can_be_switched_off(store: InMemoryThreadStore, checkout: Path) -> None:
    thread = await LiveThread.create(store, CreateThreadParams(cwd=str(checkout)), collect_git=False)
    managed = await ThreadManager(store, collect_git=False).create_thread(CreateThreadParams(cwd=str(checkout)))

    assert await created_in(store, thread) is None
    assert await created_in(store, managed) is None
