"""Keeps the originals of rollouts that codex may rewrite: a hard link to each legacy rollout with lines of ours.

``codex migrate-rollouts --apply`` replaces a legacy rollout with a paginated one. It drops our fields, our lines and later
copies of ``session_meta``. The link still names the old file, so nothing is lost. Until then it names the rollout itself,
so it takes no space, and writing a line costs nothing more. `rollout_reader` reads a rewritten rollout together with
its original; the next batch that writes the thread carries over what codex dropped, in a line of ours, and then removes the
original. It is also removed when the thread's last rollout is deleted, by us or by another program.
"""

from __future__ import annotations

import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from livethread_worker.store.files.home import Home, other_form


def link(home: Home, path: Path) -> None:
    """Keep the rollout *path* as its own original, in place of an earlier one.

    A file system may lack hard links. Then the rollout has no original.
    """
    forget(home, path)
    with suppress(OSError):
        os.link(path, home.originals / path.name, follow_symlinks=False)


def is_linked(home: Home, path: Path) -> bool:
    """Whether the rollout *path* is its own original: no other file has taken its place."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return (home.originals / path.name).samefile(path)
    return False


def find(home: Home, path: Path) -> Path | None:
    """Return the original of the rollout *path*; None if it has no original, or is its own."""
    if is_linked(home, path):
        return None
    kept = home.originals / path.name
    return next((form for form in (kept, other_form(kept)) if form.exists()), None)


def forget(home: Home, path: Path) -> None:
    """Remove the original of the rollout *path*, if there is one."""
    kept = home.originals / path.name
    for form in (kept, other_form(kept)):
        form.unlink(missing_ok=True)


def of_threads(home: Home, thread_ids: Container[str]) -> list[Path]:
    """Return all originals of *thread_ids*, by name."""
    kept = home.originals.iterdir() if home.originals.is_dir() else ()
    return sorted(path for path in kept if home.thread_of(path) in thread_ids)
