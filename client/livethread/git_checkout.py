"""Reads the git checkout in which a thread starts, as codex does (``git-utils/src/info.rs``)."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Final

from livethread.metadata import GitInfo

logger = logging.getLogger(__name__)

#: Longest wait for git.
GIT_TIMEOUT_S: Final = 5.0

#: Keep git from running the checkout's programs, from writing to it, and from asking for a password.
_COMMAND: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_ENV: Final = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}

#: Variables that lead git to another checkout; git sets them for its hooks.
_ELSEWHERE: Final = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"})


async def read_git(cwd: str) -> GitInfo | None:
    """Return the commit, the branch and the URL of ``origin`` for the checkout that holds *cwd*.

    None if there is no checkout, git is not installed, or it takes too long. Never raises, and never blocks the event
    loop.
    """
    if not await asyncio.to_thread(_is_in_checkout, cwd):
        return None
    try:
        async with asyncio.timeout(GIT_TIMEOUT_S):
            commit, branch, url = await asyncio.gather(
                _git(cwd, "rev-parse", "HEAD"),
                _git(cwd, "rev-parse", "--abbrev-ref", "HEAD"),
                _git(cwd, "remote", "get-url", "origin"),
            )
    except (OSError, TimeoutError) as error:
        logger.warning("reading the git checkout failed", extra={"action": "read_git", "error": type(error).__name__})
        return None
    found = GitInfo(commit_hash=commit, branch=None if branch == "HEAD" else branch, repository_url=url)
    return found if found != GitInfo() else None


def _is_in_checkout(cwd: str) -> bool:
    """Return whether *cwd* or a parent holds ``.git``. Servers rarely run in a checkout, and git is much slower."""
    try:
        path = Path(cwd)
        return path.is_absolute() and path.is_dir() and any((up / ".git").exists() for up in (path, *path.parents))
    except (OSError, ValueError):
        return False


async def _git(cwd: str, *arguments: str) -> str | None:
    """Return what git prints, or None if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(*_COMMAND, *arguments),
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in _ELSEWHERE} | _ENV,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = printed.decode(errors="replace").strip()
    return text if process.returncode == 0 and text else None
