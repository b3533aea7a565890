from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.nodes.items import append, flush, message, read, said, update
from tests.nodes.literals import FOUND, TEXTS
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import a_word, archive, delete, stored
from tests.store_spec.test_search_threads import all_pages, found, page_of, paged

from livethread import (
    InvalidRequest,
    SearchMatch,
    SortDirection,
    ThreadMetadataPatch,
    ThreadNotFound,
    ThreadSortKey,
    ThreadStore,
)

pytestmark = EVERY_READER

LITERAL = SearchMatch.LITERAL


async def test_a_term_is_found_anywhere_in_a_text_as_by_codex(store: ThreadStore) -> None:
    """The stores with workers keep the threads of other tests, so they are told apart by their source."""
    source = {"custom": a_word()}
    ids = [await stored(store, said(text), source=source) for text in TEXTS]

    hits = {term: await found(store, term, match=LITERAL, allowed_sources=(source,)) for term in FOUND}

    assert {term: sorted(map(ids.index, threads)) for term, threads in hits.items()} == FOUND


@pytest.mark.parametrize("term", ["a", "e ", "ab"])
async def test_terms_shorter_than_a_trigram_are_found(store: ThreadStore, term: str) -> None:
    source = {"custom": a_word()}
    first, _ = [await stored(store, said(text), source=source) for text in ("The Abbey ", "xyz")]

    assert await found(store, term, match=LITERAL, allowed_sources=(source,)) == [first]


@pytest.mark.parametrize("term", ["resume\u0301", "résumé", "RÉSUMÉ"])
@pytest.mark.parametrize("text", ["Résumé", "re\u0301sume\u0301 re\u0301sume\u0301"])
async def test_composed_and_decomposed_letters_are_the_same(store: ThreadStore, term: str, text: str) -> None:
    word = a_word()
    thread_id = await stored(store, said(f"{word}{text}"))

    expected = [] if term == "resume\u0301" else [thread_id]
    assert await found(store, f"{word}{term}", match=LITERAL) == expected


async def test_the_whole_term_must_be_in_one_text(store: ThreadStore) -> None:
    one, two = a_word(), a_word()
    both = await stored(store, said(f"{one} {two}"))
    await stored(store, said(one), message(two), name=two)
    await stored(store, said(f"{two} {one}"))
    await stored(store, said(f"{one}  {two}"))

    assert await found(store, f"{one} {two}", match=LITERAL) == [both]


async def test_what_looks_like_syntax_is_text(store: ThreadStore) -> None:
    word = a_word()
    thread_id = await stored(store, said(f'"{word}"* AND (x OR\0 {word}) %_ {word[::-1]}'))

    for term in (f'"{word}"*', f'{word}"* and (', f"OR\0 {word}) %_", f"x OR  {word}", f"%_ {word[::-1]}"):
        assert await found(store, term, match=LITERAL) == [thread_id], term
    for term in (f"{word}*", f"{word} AND", f"%{word}", f"_{word}_"):
        assert await found(store, term, match=LITERAL) == [], term


@pytest.mark.parametrize("term", [" ", "\t\n", "\u3000"])
async def test_a_blank_term_is_refused(store: ThreadStore, term: str) -> None:
    with pytest.raises(InvalidRequest, match="not a space"):
        await page_of(store, term, match=LITERAL)


async def test_a_name_is_found_and_a_former_name_is_not(store: ThreadStore) -> None:
    first, second = a_word(), a_word()
    thread_id = await stored(store, name=f"The-{first}-e\u0301t\u212a")
    named = await found(store, f"-{first}-étk", match=LITERAL)

    await update(store, thread_id, ThreadMetadataPatch(name=f"({second})"))
    await flush(store, thread_id)

    assert named == [thread_id]
    assert await found(store, f"-{first}-", match=LITERAL) == []
    assert await found(store, f"({second}", match=LITERAL) == [thread_id]


async def test_later_text_is_found_and_a_deleted_threads_text_is_not(store: ThreadStore) -> None:
    word = a_word()
    one, two = await stored(store, said("first")), await stored(store, said(f"->{word}"))
    await append(store, one, message(f"=-{word}"))
    await flush(store, one)

    both = await found(store, word[1:], match=LITERAL)
    await delete(store, two)
    with pytest.raises(ThreadNotFound):
        await read(store, two)

    assert sorted(both) == sorted([one, two])
    assert await found(store, word, match=LITERAL) == [one]


async def test_active_and_archived_threads_are_searched_separately(store: ThreadStore) -> None:
    word = a_word()
    active, archived = [await stored(store, said(word)) for _ in range(2)]
    await archive(store, archived)
    await flush(store, archived)

    assert await found(store, word[1:], match=LITERAL) == [active]
    assert await found(store, word[1:], match=LITERAL, archived=True) == [archived]


@pytest.mark.parametrize(
    "params",
    [
        {"sort_direction": SortDirection.ASC},
        {"sort_key": ThreadSortKey.UPDATED_AT},
        {"sort_key": ThreadSortKey.UPDATED_AT, "sort_direction": SortDirection.ASC},
        {"sort_key": ThreadSortKey.CREATED_AT},
    ],
    ids=str,
)
async def test_pages_neither_lose_nor_repeat_a_thread(store: ThreadStore, params: dict[str, str]) -> None:
    """Without a sort key, the threads that were updated last come first."""
    word = a_word()
    at = datetime(2100, 1, 1, tzinfo=UTC)
    ids = []
    for n in range(5):
        ids.append(await stored(store, said(f"_{word}_"), created_at=at + timedelta(days=n)))
        await update(store, ids[-1], ThreadMetadataPatch(updated_at=at + timedelta(days=10 + n)))
        await flush(store, ids[-1])
    is_ascending = "sort_key" in params and "sort_direction" in params
    expected = ids if is_ascending else ids[::-1]

    for size in (1, 2, 5, 6):
        assert await all_pages(store, f"{word}_", size, match=LITERAL, **params) == paged(expected, size)


async def test_a_snippet_shows_the_first_match_and_what_is_around_it(store: ThreadStore) -> None:
    word = a_word()
    before, after = "b" * 200, "a" * 200
    await stored(store, said(f"{before} 東京{word.upper()}都庁 {after}"), message(f"second {word}"))

    [each] = (await page_of(store, f"京{word}", match=LITERAL)).items

    around = f"{before[-46:]} 東京{word.upper()}都庁 {after[:93]}"
    assert each.snippet == f"…{around}…"
