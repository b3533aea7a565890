from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from livethread.directories import same_directory

#: Spelling of a filter -> of a directory that exists.
SPELLINGS: dict[str, Callable[[Path], str]] = {
    "as it is": str,
    "with a slash": lambda path: f"{path}/",
    "with slashes and dots": lambda path: f"{path.parent}//./{path.name}/.",
    "with dots": lambda path: f"{path}/../{path.name}",
    "by a link": lambda path: str(path.with_name("link")),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    path.mkdir()
    path.with_name("link").symlink_to(path)
    path.with_name("other").mkdir()
    return path


@pytest.mark.parametrize("wanted", SPELLINGS)
@pytest.mark.parametrize("spelled", SPELLINGS)
def test_every_spelling_of_a_directory_is_the_same(directory: Path, wanted: str, spelled: str) -> None:
    is_wanted = same_directory([SPELLINGS[wanted](directory)])

    assert is_wanted(SPELLINGS[spelled](directory))
    assert not is_wanted(str(directory.with_name("other")))
    assert not is_wanted(str(directory.parent))


@pytest.mark.parametrize("wanted", ["/nowhere/x", "/nowhere/x/", "/nowhere/y/../x", "//nowhere/./x"])
def test_a_directory_that_is_gone_is_compared_by_its_parts(wanted: str) -> None:
    """As in codex, which resolves dots in a filter only."""
    is_wanted = same_directory(["/else", wanted])

    assert [
        path
        for path in ("/nowhere/x", "/nowhere//x/.", "/nowhere/y/../x", "/nowhere/X", "nowhere/x", "")
        if is_wanted(path)
    ] == ["/nowhere/x", "/nowhere//x/."]


@pytest.mark.parametrize("path", ["", ".", "x", "/a\0b", "/" + "x" * 5000, "C:\\\\work"])
def test_any_text_is_the_same_as_itself_and_no_other(path: str) -> None:
    assert same_directory([path])(path)
    assert not same_directory([path])("/nowhere")
    assert not same_directory([])(path)
