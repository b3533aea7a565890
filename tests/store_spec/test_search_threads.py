from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.nodes.items import append, flush, message, read, said, update
from tests.store_spec.kinds import EVERY_READER
from tests.store_spec.operations import a_word, archive, stored, unarchive

from livethread import (
    InvalidRequest,
    ListThreadsParams,
    SearchThreadsParams,
    SortDirection,
    ThreadMetadataPatch,
    ThreadSearchPage,
    ThreadSortKey,
    ThreadStore,
    new_thread_id,
)

pytestmark = EVERY_READER

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def page_of(store: ThreadStore, term: str, **params: Any) -> ThreadSearchPage:
    return await store.search_threads(SearchThreadsParams.model_validate({"search_term": term, **params}))


async def found(store: ThreadStore, term: str, **params: Any) -> list[str]:
    return [each.thread.thread_id for each in (await page_of(store, term, page_size=1000, **params)).items]


async def all_pages(store: ThreadStore, term: str, page_size: int, **params: Any) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = None
    while True:
        page = await page_of(store, term, page_size=page_size, cursor=cursor, **params)
        pages.append([each.thread.thread_id for each in page.items])
        cursor = page.next_cursor
        if cursor is None:
            return pages


def paged(ids: list[str], size: int) -> list[list[str]]:
    return [ids[i : i + size] for i in range(0, len(ids), size)]


async def test_words_of_users_and_of_the_agent_are_found(store: ThreadStore) -> None:
    word = a_word()
    answer = {"type": "event_msg", "payload": {"type": "agent_message", "message": f"Here is {word}."}}
    asked = [{"type": "input_text", "text": f"where is {word.upper()}?"}]
    question = {"type": "response_item", "payload": {"type": "message", "role": "user", "content": asked}}
    plain = {"type": "response_item", "payload": {"type": "message", "role": "user", "content": f"{word}?"}}
    items = said(f"a {word}!"), message(f"({word})"), answer, question, plain
    ids = [await stored(store, item) for item in items]

    assert sorted(await found(store, word)) == sorted(ids)
    assert sorted(await found(store, word.upper())) == sorted(ids)


async def test_text_that_neither_user_nor_agent_said_is_not_found(store: ThreadStore) -> None:
    word = a_word()
    developer = message(word, role="developer")
    harness = [{"type": "input_text", "text": f"<environment_context>{word}</environment_context>"}]
    context = {"type": "response_item", "payload": {"type": "message", "role": "user", "content": harness}}
    call = {"type": "response_item", "payload": {"type": "function_call", "name": word, "arguments": word}}
    await stored(store, developer, context, call, cwd=f"/{word}", model_provider=word)

    assert await found(store, word) == []


async def test_a_found_thread_equals_the_thread_that_is_read(store: ThreadStore) -> None:
    word = a_word()
    thread_id = await stored(store, said(word), name="A name", cwd="/repo")

    [each] = (await page_of(store, word)).items

    assert each.thread == await read(store, thread_id)


async def test_an_unknown_word_finds_nothing(store: ThreadStore) -> None:
    await stored(store, said("known"))

    assert await page_of(store, a_word()) == ThreadSearchPage(items=())


async def test_all_words_must_be_in_one_message(store: ThreadStore) -> None:
    one, two = a_word(), a_word()
    both = await stored(store, said(f"{two} then {one}"))
    await stored(store, said(one), message(two))
    await stored(store, said(f"only {one}"))

    assert await found(store, f"{one} {two}") == [both]


async def test_a_phrase_is_found_only_in_its_order(store: ThreadStore) -> None:
    one, two = a_word(), a_word()
    phrase = await stored(store, said(f"the {one}, {two}!"))
    await stored(store, said(f"{two} {one}"))
    await stored(store, said(f"{one} and {two}"))

    assert await found(store, f'"{one} {two}"') == [phrase]
    assert await found(store, f'the "{one}   {two}"') == [phrase]


async def test_a_prefix_is_found_only_with_an_asterisk(store: ThreadStore) -> None:
    word = a_word()
    whole, longer = await stored(store, said(word)), await stored(store, said(f"{word}ing"))

    assert await found(store, word) == [whole]
    assert sorted(await found(store, f"{word}*")) == sorted([whole, longer])
    assert await found(store, f"{word}in*") == [longer]


@pytest.mark.parametrize("text", ["Résumé", "resume", "re\u0301sume\u0301"], ids=["composed", "plain", "decomposed"])
async def test_diacritics_and_case_make_no_difference(store: ThreadStore, text: str) -> None:
    word = a_word()
    thread_id = await stored(store, said(f"{word} {text} {word}"))

    queries = ["résumé", "resume", "RÉSUMÉ", "re\u0301sume\u0301", "resumé", "résu*", "re\u0301su*"]
    assert {each: await found(store, f"{word} {each}") for each in queries} == {each: [thread_id] for each in queries}


async def test_text_without_spaces_between_words_is_found_by_any_part(store: ThreadStore) -> None:
    word = a_word()
    thread_id = await stored(store, said(f"{word} 今日は東京都庁に行く。ラーメンを食べる"))

    queries = [
        "東京",
        "京都",
        "都",
        "東京都庁",
        "ラーメン",
        "メン",
        "東*",
        "に行く",
        "東京 ラーメン",
        '"東京都庁に行く"',
    ]
    assert {each: await found(store, f"{word} {each}") for each in queries} == {each: [thread_id] for each in queries}
    assert await found(store, f"{word} 京東") == []


@pytest.mark.parametrize("text", ["🎉{}🎉", "👩‍👩‍👧{}", "({})", "{}…", "„{}“", "a_{}_b", "x/{}.py", "#{}", "{}'s"])
async def test_a_word_is_found_beside_emoji_and_punctuation(store: ThreadStore, text: str) -> None:
    word = a_word()
    thread_id = await stored(store, said(text.format(word)))

    assert await found(store, word) == [thread_id]
    assert await found(store, text.format(word)) == [thread_id]


#: Terms; a word replaces the braces.
HOSTILE = [
    "{}'", '{}"', '"{}', '"{}""', "({}", "{})", "text:{}", "text : {}", "-{}", "^{}", "{}^2", "{}; DROP TABLE t", "*{}",
    "{}**", "{} OR", "{} AND", "NOT {}", "NEAR({} x, 5)", "{{text}}: {}", "{} + x", "{}\0", "\\{}", "{} ?1 :x", "%{}_",
]  # fmt: skip


async def test_nothing_in_a_query_is_syntax(store: ThreadStore) -> None:
    """Each query finds its own text, besides a text with all the words, and raises no error."""
    for hostile in HOSTILE:
        word = a_word()
        query = hostile.format(word)
        thread_id = await stored(store, said(f"near not and or drop table t text x 5 2 1 {word}"))
        twin = await stored(store, said(query))

        ids = await found(store, query)

        assert twin in ids, hostile
        assert set(ids) <= {twin, thread_id}, hostile


@pytest.mark.parametrize("query", [" ", "!", "🎉", '""', "*", '"', "_", "\0", "'"])
async def test_a_query_without_a_word_is_refused(store: ThreadStore, query: str) -> None:
    with pytest.raises(InvalidRequest, match="at least one word"):
        await page_of(store, query)


@pytest.mark.parametrize("query", ["", "word\ud800"], ids=["empty", "a lone surrogate"])
def test_an_invalid_query_is_refused(kind: str, query: str) -> None:
    with pytest.raises(InvalidRequest, match="search_term"):
        SearchThreadsParams(search_term=query)


async def test_a_query_of_hundreds_of_words_is_answered(store: ThreadStore) -> None:
    words = [a_word() for _ in range(600)]
    thread_id = await stored(store, said(" ".join(words)))

    assert await found(store, " ".join(words)) == [thread_id]
    assert await found(store, f'"{" ".join(words)}"') == [thread_id]


async def test_a_name_is_found_and_a_former_name_is_not(store: ThreadStore) -> None:
    first, second = a_word(), a_word()
    thread_id = await stored(store, name=f"The {first} thread")
    named = await found(store, first), await found(store, second)

    await update(store, thread_id, ThreadMetadataPatch(name=f"The {second} thread"))
    await flush(store, thread_id)
    renamed = await found(store, first), await found(store, second)
    await update(store, thread_id, ThreadMetadataPatch(name=None))
    await flush(store, thread_id)

    assert named == ([thread_id], [])
    assert renamed == ([], [thread_id])
    assert (await found(store, first), await found(store, second)) == ([], [])


async def test_text_of_a_message_is_found_though_a_former_name_was_the_same(store: ThreadStore) -> None:
    word = a_word()
    thread_id = await stored(store, said(word), name=word)

    await update(store, thread_id, ThreadMetadataPatch(name="another"))
    await flush(store, thread_id)

    assert await found(store, word) == [thread_id]


async def test_words_of_the_name_and_of_a_message_do_not_match_together(store: ThreadStore) -> None:
    one, two = a_word(), a_word()
    await stored(store, said(one), name=two)

    assert await found(store, f"{one} {two}") == []


async def test_active_and_archived_threads_are_searched_separately(store: ThreadStore) -> None:
    word = a_word()
    active, archived, back = [await stored(store, said(word)) for _ in range(3)]
    for thread_id in (archived, back):
        await archive(store, thread_id)
    await unarchive(store, back)
    for thread_id in (archived, back):
        await flush(store, thread_id)

    assert sorted(await found(store, word)) == sorted([active, back])
    assert await found(store, word, archived=True) == [archived]


async def test_results_are_filtered_by_source(store: ThreadStore) -> None:
    word = a_word()
    cli, custom = await stored(store, said(word)), await stored(store, said(word), source={"custom": "x"})

    assert await found(store, word, allowed_sources=("cli",)) == [cli]
    assert await found(store, word, allowed_sources=({"custom": "x"}, "exec")) == [custom]
    assert await found(store, word, allowed_sources=("exec",)) == []
    assert sorted(await found(store, word)) == sorted([cli, custom])


async def test_pages_by_relevance_neither_lose_nor_repeat_a_thread(store: ThreadStore) -> None:
    """Some match better than others, and some equally well."""
    word = a_word()
    ids = [await stored(store, said(f"{word} {'padding ' * (n // 3)}")) for n in range(7)]

    whole = await found(store, word)
    pages = {size: await all_pages(store, word, size) for size in (1, 2, 3, 7, 8)}

    assert sorted(whole) == sorted(ids)
    assert pages == {size: paged(whole, size) for size in (1, 2, 3, 7, 8)}


async def test_pages_by_relevance_lose_no_thread_while_others_are_written(store: ThreadStore) -> None:
    word = a_word()
    ids = [await stored(store, said(f"{word} {'padding ' * n}")) for n in range(6)]
    seen: list[str] = []
    cursor: str | None = None

    while len(seen) <= len(ids):
        page = await page_of(store, word, page_size=2, cursor=cursor)
        seen += [each.thread.thread_id for each in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        await stored(store, *(said(f"something else {n} {a_word()}") for n in range(50)))

    assert sorted(seen) == sorted(ids)


@pytest.mark.parametrize("direction", list(SortDirection))
@pytest.mark.parametrize("key", list(ThreadSortKey))
async def test_pages_by_each_sort_key_neither_lose_nor_repeat_threads_with_equal_times(
    store: ThreadStore, key: ThreadSortKey, direction: SortDirection
) -> None:
    word = a_word()
    field = "advance_recency_at" if key is ThreadSortKey.RECENCY_AT else key.value
    later = datetime(2100, 1, 1, tzinfo=UTC)
    numbers: dict[str, int] = {}
    for n in (3, 0, 4, 1, 6, 5, 2):
        thread_id = await stored(store, said(word), created_at=AT)
        at = later + timedelta(seconds=n // 3)
        await update(store, thread_id, ThreadMetadataPatch.model_validate({field: at}))
        await flush(store, thread_id)
        numbers[thread_id] = n // 3
    expected = sorted(numbers, key=lambda id_: (numbers[id_], id_), reverse=direction is SortDirection.DESC)

    pages = {
        size: await all_pages(store, word, size, sort_key=key, sort_direction=direction) for size in (1, 2, 3, 7, 8)
    }

    assert pages == {size: paged(expected, size) for size in (1, 2, 3, 7, 8)}


@pytest.mark.parametrize("cursor", ["x", "!", "é", "e30=", "WzFd", "W10=", "IiI="])
async def test_a_malformed_cursor_is_refused(store: ThreadStore, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await page_of(store, "x", cursor=cursor)


async def test_a_cursor_of_a_search_or_listing_by_another_sort_key_is_refused(store: ThreadStore) -> None:
    word, cwd = a_word(), f"/{new_thread_id()}"
    for _ in range(2):
        await stored(store, said(word), cwd=cwd)
    found = await page_of(store, word, page_size=1, sort_key=ThreadSortKey.CREATED_AT)
    listed = await store.list_threads(
        ListThreadsParams(
            include_without_preview=True, page_size=1, cwd_filters=(cwd,), sort_key=ThreadSortKey.CREATED_AT
        )
    )

    for cursor in (found.next_cursor, listed.next_cursor):
        assert cursor is not None
        for key in (None, ThreadSortKey.UPDATED_AT):
            with pytest.raises(InvalidRequest, match="created_at"):
                await page_of(store, word, cursor=cursor, sort_key=key)


@pytest.mark.parametrize("text", ["{0}", "{1}{0}", "{0}{1}", "{1}{0}{1}"])
async def test_a_snippet_shows_the_match(store: ThreadStore, text: str) -> None:
    word = a_word()
    await stored(store, said(text.format(f" {word} ", "many other words " * 200)))

    [each] = (await page_of(store, word)).items

    assert word in each.snippet


async def test_a_snippet_shows_the_text_as_it_was_written(store: ThreadStore) -> None:
    word = a_word()
    text = f"{word} 東京都庁 Café 🎉"
    await stored(store, said(text))
    named = await stored(store, name=f"{text} named {word}")

    snippets = {each.thread.thread_id: each.snippet for each in (await page_of(store, f"{word} 京都")).items}

    assert snippets.pop(named) == f"{text} named {word}"
    assert list(snippets.values()) == [text]


async def test_text_that_was_rolled_back_stays_findable(store: ThreadStore) -> None:
    word = a_word()
    rollback = {"type": "event_msg", "payload": {"type": "thread_rolled_back", "num_turns": 1}}
    thread_id = await stored(store, said(word), rollback)

    assert await found(store, word) == [thread_id]


async def test_the_same_text_as_event_and_as_response_item_gives_one_result(store: ThreadStore) -> None:
    word = a_word()
    thread_id = await stored(store, said(word), message(word, role="user"), said(word), message(word))

    page = await page_of(store, word, page_size=1)

    assert [each.thread.thread_id for each in page.items] == [thread_id]
    assert page.next_cursor is None


async def test_text_that_is_appended_later_is_found(store: ThreadStore) -> None:
    first, later = a_word(), a_word()
    thread_id = await stored(store, said(first))

    await append(store, thread_id, said(later))
    await flush(store, thread_id)

    assert (await found(store, first), await found(store, later)) == ([thread_id], [thread_id])


async def test_attached_forks_are_searched_only_on_request(store: ThreadStore) -> None:
    word = a_word()
    root = await stored(store, message(word))
    attached = await stored(store, message(word), forked_from_id=root, attached_thread=True)

    assert await found(store, word) == [root]
    assert sorted(await found(store, word, include_attached_threads=True)) == sorted([root, attached])
