"""Which processes ``livethread up`` runs, and with which settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from livethread.cli.up import _specs
from livethread_config import Settings


@pytest.mark.parametrize(
    ("flower_url", "expected"),
    [(None, "http://127.0.0.1:5555/"), ("https://flower.example/", "https://flower.example/")],
)
def test_the_pages_know_the_address_of_flower(tmp_path: Path, flower_url: str | None, expected: str) -> None:
    (tmp_path / "Procfile").write_text("browse: livethread browse\nflower: celery flower\n")
    settings = Settings(redis_url="redis://r", home=tmp_path, flower_url=flower_url)

    specs = _specs(settings, tmp_path / "Procfile", 1, {"browse": "5556", "flower": "5555"})

    assert [spec.env.get("LIVETHREAD_FLOWER_URL") for spec in specs if spec.kind == "browse"] == [expected]
