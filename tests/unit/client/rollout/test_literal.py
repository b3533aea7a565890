from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest
from livethread.rollout.literal import Excerpt, excerpt, folded, literal_term, occurrences

CASED = st.sampled_from("aAbBßẞİ\u0131iIΣ\u03c3ςéÉe\u0301ﬁŉǅ日 \n-_")
TEXTS = st.text(st.one_of(CASED, st.characters()), max_size=30)


@given(text=TEXTS)
def test_folding_keeps_each_characters_place(text: str) -> None:
    assert len(folded(text)) == len(text)
    assert folded(text) == "".join(map(folded, text)) == folded(folded(text))


@given(before=TEXTS, term=TEXTS.filter(str.strip), after=TEXTS)
def test_a_term_is_found_in_every_text_that_holds_it_in_any_case(before: str, term: str, after: str) -> None:
    text, wanted = f"{before}{term}{after}", folded(term)

    found = list(occurrences(text, wanted))

    assert found
    assert {folded(text)[start:end] for start, end in found} == {wanted}
    assert all(end <= start for (_, end), (start, _) in pairwise(found))


@pytest.mark.parametrize(
    ("text", "term", "places"),
    [
        ("foofoo ofoofo", "foo", [(0, 3), (3, 6), (8, 11)]),
        ("aFOOb", "foo", [(1, 4)]),
        ("ofofo", "ofo", [(0, 3)]),
        ("İstanbul ISTANBUL", "stan", [(1, 5), (10, 14)]),
        ("ΟΔΟΣ οδος", "οδοσ", [(0, 4), (5, 9)]),
        ("straße", "ss", []),
        ("nothing", "x", []),
    ],
)
def test_occurrences_do_not_overlap(text: str, term: str, places: list[tuple[int, int]]) -> None:
    assert list(occurrences(text, literal_term(term))) == places


def test_a_term_is_composed_and_folded() -> None:
    assert literal_term("E\u0301 \0x") == "é  x"
    with pytest.raises(InvalidRequest, match="not a space"):
        literal_term(" \t")


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("a foo b", (2, 5), Excerpt("a foo b", 2, 5)),
        ("x" * 48 + "foo" + "y" * 96, (48, 51), Excerpt("x" * 48 + "foo" + "y" * 96, 48, 51)),
        ("x" * 49 + "foo" + "y" * 97, (49, 52), Excerpt("…" + "x" * 48 + "foo" + "y" * 96 + "…", 49, 52)),
    ],
    ids=["short", "as long as it may be", "longer"],
)
def test_an_excerpt_shows_what_is_around_the_match(text: str, place: tuple[int, int], expected: Excerpt) -> None:
    assert excerpt(text, *place) == expected
    assert expected.text[expected.start : expected.end] == "foo"
