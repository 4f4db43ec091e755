"""Search in stored conversations, on a real database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxd.daemon.conversations.search import MAX_TERMS, snippet
from mlxd.daemon.conversations.store import Store, Turn
from mlxd.protocol.errors import InvalidParams

TEXTS = {
    "chinese": "请解释一下机器学习的基本概念",
    "japanese": "東京タワーの高さを教えてください",
    "thai": "ช่วยแปลประโยคนี้เป็นภาษาอังกฤษหน่อย",
    "korean": "대한민국의 수도는 어디입니까",
    "emoji": "Deploy it 🚀 with love ❤️ and 👍🏽",
    "code": "What does c++ do with $HOME and a->b?",
    "german": "Die Straßenbahn fährt über die Brücke",
    "mixed": "Learn Python入門 today",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("state") / "conversations.db")
    for name, text in TEXTS.items():
        turn = Turn("chat", name, "", None, "pocket", [{"role": "user", "content": text}])
        made.finish(made.begin(turn), {"text": f"answer to {name}"}, {})
    return made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("机器", ["chinese"]),
        ("学", ["chinese"]),
        ("基本概念", ["chinese"]),
        ("机器 概念", ["chinese"]),
        ("机概", []),
        ("タワー", ["japanese"]),
        ("高さ", ["japanese"]),
        ("ภาษา", ["thai"]),
        ("민국", ["korean"]),
        ("🚀", ["emoji"]),
        ("❤", ["emoji"]),
        ("❤️", ["emoji"]),
        ("👍", ["emoji"]),
        ("deploy 🚀", ["emoji"]),
        ("C++", ["code"]),
        ("$home", ["code"]),
        ("->", ["code"]),
        ("brucke", ["german"]),
        ("FÄHRT", ["german"]),
        ("python入門", ["mixed"]),
        ("入門 answer", ["mixed"]),
        ("answer 机器", ["chinese"]),
    ],
)
def test_search_finds_words_and_parts_of_words(store: Store, query: str, found: list[str]) -> None:
    assert [record["id"] for record in store.search(query, 9)] == found


@pytest.mark.parametrize("query", ["", "  ", "\0", "\ufe0f", "a" * 60_000, "机" * 60_000])
def test_empty_and_overlong_queries_find_nothing(store: Store, query: str) -> None:
    assert store.search(query, 9) == []


OPERATORS = ['"', "*", "(", ")", "AND", "OR", "NOT", "NEAR(a b)", "question:", "^", "-", "+", "{a}",
             "'", ";", "--", "%", "_", "\\", "\0"]  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(terms=st.lists(st.one_of(st.sampled_from(OPERATORS), st.text(max_size=8)), max_size=12))
def test_search_terms_are_never_parsed_as_fts_operators(store: Store, terms: list[str]) -> None:
    text = " ".join(terms)
    if len(text.split()) <= MAX_TERMS:
        store.search(text, 9)


def test_a_search_with_too_many_words_is_refused(store: Store) -> None:
    assert store.search(" ".join(["answer"] * MAX_TERMS), 99)
    with pytest.raises(InvalidParams, match="33 words; at most 32"):
        store.search(" ".join(["answer"] * (MAX_TERMS + 1)), 9)


def test_the_snippet_quotes_the_matching_turn_around_the_match(tmp_path: Path) -> None:
    store = Store(tmp_path / "conversations.db")
    for text in ("Nothing here.", f"{'词' * 200}目标{'语' * 200}"):
        turn = Turn("chat", "one", "", None, "pocket", [{"role": "user", "content": text}])
        store.begin(turn)
    (record,) = store.search("目标", 9)
    assert record["turns"] == 2
    assert record["snippet"].startswith("…词")
    assert "目标" in record["snippet"]
    assert len(record["snippet"]) < 100


def test_a_snippet_of_no_text_is_empty() -> None:
    assert snippet([], "x") == ""
    assert snippet(["\n a \n b"], "x") == "a b"
