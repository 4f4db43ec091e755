from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.engine.tokenization.text import Channel, Markers, Piece, TextSplitter

MARKERS = Markers("<think>", "</think>", "<tool_call>", "</tool_call>")


def split(
    text: str, sizes: list[int], stops: tuple[str, ...] = (), **kwargs: Any
) -> tuple[list[Piece], TextSplitter]:
    splitter = TextSplitter(MARKERS, stops, **kwargs)
    pieces: list[Piece] = []
    rest = text
    for size in sizes:
        pieces += splitter.feed(rest[:size])
        rest = rest[size:]
    pieces += splitter.feed(rest)
    pieces += splitter.flush()
    return pieces, splitter


def joined(pieces: list[Piece], channel: Channel) -> str:
    return "".join(piece.text for piece in pieces if piece.channel is channel)


TEXT = '<think>\nWhy <b?\n</think>\n\nSo: a<b<tool_call>\n{"name": 1}\n</tool_call>\nend'


@given(sizes=st.lists(st.integers(1, 5), max_size=80))
def test_the_splitter_gives_the_same_text_for_any_chunking(sizes: list[int]) -> None:
    pieces, _ = split(TEXT, sizes)
    assert joined(pieces, Channel.REASONING) == "Why <b?\n"
    assert joined(pieces, Channel.ANSWER) == "So: a<bend"
    assert joined(pieces, Channel.TOOL) == '{"name": 1}\n'
    assert sum(piece.closed for piece in pieces) == 1


@given(sizes=st.lists(st.integers(1, 4), max_size=40))
def test_a_stop_sequence_ends_the_answer_and_is_left_out(sizes: list[int]) -> None:
    pieces, splitter = split("one two three STOP four", sizes, ("STOP", "never"))
    assert joined(pieces, Channel.ANSWER) == "one two three "
    assert splitter.stopped


def test_the_earliest_stop_sequence_wins() -> None:
    pieces, _ = split("abcdef", [], ("ef", "cd"))
    assert joined(pieces, Channel.ANSWER) == "ab"


def test_a_stop_sequence_inside_reasoning_is_ignored() -> None:
    pieces, splitter = split("<think>x STOP y</think>z", [], ("STOP",))
    assert not splitter.stopped
    assert joined(pieces, Channel.ANSWER) == "z"


def test_text_that_may_begin_a_marker_is_held_back_and_released() -> None:
    splitter = TextSplitter(MARKERS)
    assert splitter.feed("a<thi") == [Piece(Channel.ANSWER, "a")]
    assert splitter.feed("s") == [Piece(Channel.ANSWER, "<this")]


def test_held_text_is_flushed_at_the_end() -> None:
    splitter = TextSplitter(MARKERS)
    splitter.feed("1 <")
    assert splitter.flush() == [Piece(Channel.ANSWER, "<")]


def test_text_starts_as_reasoning_if_the_prompt_opened_it() -> None:
    pieces, _ = split("because</think>yes", [], channel=Channel.REASONING)
    assert joined(pieces, Channel.REASONING) == "because"
    assert joined(pieces, Channel.ANSWER) == "yes"


@pytest.mark.parametrize("text", ["", "plain", "a < b > c", "</think>", "x</tool_call>y"])
def test_text_without_opening_markers_passes_unchanged(text: str) -> None:
    pieces, _ = split(text, [1] * len(text))
    assert joined(pieces, Channel.ANSWER) == text


def test_without_markers_everything_is_answer() -> None:
    splitter = TextSplitter(Markers())
    assert splitter.feed("<think>x") == [Piece(Channel.ANSWER, "<think>x")]


LITERAL = "a<think>b</think>c<tool_call>d</tool_call>"


@pytest.mark.parametrize("size", [1, 3, 50])
def test_markers_inside_a_constrained_answer_are_text(size: int) -> None:
    splitter = TextSplitter(MARKERS, literal=True)
    chunks = [LITERAL[at : at + size] for at in range(0, len(LITERAL), size)]
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.flush()
    assert {piece.channel for piece in pieces} == {Channel.ANSWER}
    assert "".join(piece.text for piece in pieces) == LITERAL


@pytest.mark.parametrize("start", ["<think>", ""])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_reasoning_before_a_constrained_answer_is_split_off(start: str, size: int) -> None:
    channel = Channel.ANSWER if start else Channel.REASONING
    splitter = TextSplitter(MARKERS, (), channel, literal=True)
    text = f"{start}why <tool_call></think>{LITERAL}"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.flush()
    said = {kind: "".join(p.text for p in pieces if p.channel is kind) for kind in Channel}
    assert said[Channel.REASONING] == "why <tool_call>"
    assert said[Channel.ANSWER] == LITERAL


def test_an_end_marker_in_a_string_that_is_never_closed_ends_the_call() -> None:
    pieces, _ = split('<tool_call>{"a": "x</tool_call>and more', [])
    assert joined(pieces, Channel.TOOL) == '{"a": "x'
    assert joined(pieces, Channel.ANSWER) == "and more"


def test_a_call_that_was_cut_in_a_string_is_one_piece() -> None:
    splitter = TextSplitter(MARKERS)
    splitter.feed('<tool_call>{"a": "x</tool_call>y')
    assert splitter.flush(cut=True) == [Piece(Channel.TOOL, '{"a": "x</tool_call>y')]
