from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livethread.errors import InvalidRequest
from livethread.rollout.search_text import WORD_BREAK, Phrase, SearchText, parse_query, search_text, spaced, words_of


def message(role: str, *texts: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text} for text in texts]}


# -- searchable texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "payload", "found"),
    [
        ("event_msg", {"type": "user_message", "message": " hi \n"}, SearchText("user", "hi")),
        ("event_msg", {"type": "user_message", "message": "x ## My request for Codex: go"}, SearchText("user", "go")),
        ("event_msg", {"type": "agent_message", "message": "yes"}, SearchText("assistant", "yes")),
        ("response_item", message("user", "a", "b"), SearchText("user", "a\nb")),
        ("response_item", message("assistant", "a"), SearchText("assistant", "a")),
        ("response_item", {"type": "message", "role": "user", "content": "text"}, SearchText("user", "text")),
        (
            "event_msg",
            {"type": "item_completed", "item": {"type": "UserMessage", "content": "text"}},
            SearchText("user", "text"),
        ),
    ],
)
def test_messages_of_users_and_the_agent_are_searchable(kind: str, payload: Any, found: SearchText) -> None:
    assert search_text(kind, payload) == found


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("event_msg", {"type": "user_message", "message": "  "}),
        ("event_msg", {"type": "user_message"}),
        ("event_msg", {"type": "user_message", "message": None}),
        ("event_msg", {"type": "agent_reasoning", "text": "secret"}),
        ("event_msg", "text"),
        ("response_item", message("developer", "rules")),
        ("response_item", message("system", "rules")),
        ("response_item", message("user", "<environment_context>…")),
        ("response_item", message("user")),
        ("response_item", {"type": "message", "role": "user", "content": [None, 7, {"text": None}]}),
        ("response_item", {"type": "message", "role": ["user"], "content": []} | {"role": "tool"}),
        ("response_item", {"type": "function_call", "arguments": "{}"}),
        ("turn_context", {"type": "user_message", "message": "x"}),
        ("compacted", {"message": "x"}),
    ],
    ids=str,
)
def test_nothing_else_is_searchable(kind: str, payload: Any) -> None:
    assert search_text(kind, payload) is None


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "assistant", "message"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "role"]), inner),
    max_leaves=4,
)


@given(
    kind=st.sampled_from(["event_msg", "response_item"]),
    type_=st.sampled_from(["user_message", "agent_message", "message"]),
    fields=st.dictionaries(st.sampled_from(["message", "role", "content"]), json_values),
)
def test_no_payload_raises(kind: str, type_: str, fields: dict[str, Any]) -> None:
    found = search_text(kind, {"type": type_, **fields})

    assert found is None or (found.text == found.text.strip() != "")


def test_equal_texts_share_a_digest_that_fits_the_index() -> None:
    one, other = SearchText("user", "hello"), SearchText("assistant", "hello")

    assert one.digest == other.digest != SearchText("user", "Hello").digest
    assert -(2**63) <= one.digest < 2**63


# -- queries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "phrases"),
    [
        ("word", [Phrase(("word",))]),
        ("two words", [Phrase(("two",)), Phrase(("words",))]),
        ('"a phrase" word', [Phrase(("a", "phrase")), Phrase(("word",))]),
        ("pre*", [Phrase(("pre",), is_prefix=True)]),
        ("foo-bar.py", [Phrase(("foo", "bar", "py"))]),
        ("snake_case", [Phrase(("snake", "case"))]),
        ("日本", [Phrase(("日", "本"))]),
        ("日*", [Phrase(("日",), is_prefix=True)]),
        ("Größe", [Phrase(("Größe",))]),
        ('"unclosed phrase', [Phrase(("unclosed",)), Phrase(("phrase",))]),
        ('"" word', [Phrase(("word",))]),
        ("NEAR(a b)", [Phrase(("NEAR", "a")), Phrase(("b",))]),
        ("text:word", [Phrase(("text", "word"))]),
        ("a AND NOT b", [Phrase((word,)) for word in ("a", "AND", "NOT", "b")]),
        ("^a + -b {c}", [Phrase((word,)) for word in "abc"]),
    ],
    ids=str,
)
def test_a_query_is_words_phrases_and_prefixes_and_nothing_else(query: str, phrases: list[Phrase]) -> None:
    assert parse_query(query) == phrases


@pytest.mark.parametrize("query", ["", " ", "*", '"', '""', "***", "- + ^ ( )", "_", "\0", WORD_BREAK])
def test_a_query_without_a_word_is_refused(query: str) -> None:
    with pytest.raises(InvalidRequest, match="at least one word"):
        parse_query(query)


@given(st.text())
def test_no_query_leaves_syntax_in_a_word(query: str) -> None:
    try:
        phrases = parse_query(query)
    except InvalidRequest:
        return

    assert all(word.isalnum() or not set(word) & set('"*:^(){}+-\0 ') for p in phrases for word in p.words)


# -- words -------------------------------------------------------------------------------------------------


def test_words_are_compared_without_case_and_diacritics() -> None:
    assert words_of("Él dijo: ÑANDÚ, año_2026!") == ["el", "dijo", "nandu", "ano", "2026"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("日本語", ["日", "本", "語"]),
        ("東京 Tower", ["東", "京", "tower"]),
        ("Python入門", ["python", "入", "門"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
        ("한국어 문장", None),
    ],
)
def test_scripts_without_spaces_have_one_word_per_character(text: str, words: list[str] | None) -> None:
    found = words_of(text)

    assert found == words if words is not None else len(found) == 2


@given(st.text())
def test_spaced_only_adds_word_breaks(text: str) -> None:
    assert spaced(text).replace(WORD_BREAK, "") == text.replace(WORD_BREAK, "")
