"""Links in the documents, and what leads to them, find their places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.nodes import api_page

from livethread.status.findings import Sentence

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    """Return the anchors of *document*'s headings."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(map(slug, re.findall(r"^#+ (.+)$", text, re.MULTILINE)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_each_alert_has_a_runbook() -> None:
    alerts = (ROOT / "config/prometheus/alerts.yml").read_text(encoding="utf-8")
    runbooks = re.findall(r"runbook_url: docs/operations.md#(.+)", alerts)

    assert runbooks
    assert set(runbooks) <= anchors(ROOT / "docs/operations.md")


@pytest.mark.parametrize("sentence", [sentence for sentence in Sentence if sentence is not Sentence.WELL])
def test_each_sentence_of_a_status_is_explained(sentence: Sentence) -> None:
    assert slug(sentence.text) in anchors(ROOT / "docs/operations.md")


def test_the_api_page_is_made_from_the_code() -> None:
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), "run: make docs"
