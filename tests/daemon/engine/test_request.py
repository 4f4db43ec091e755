from __future__ import annotations

import json
from typing import Any

from mlxd.daemon.engine.generation import GenerationRequest
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import TextPrompt
from mlxd.daemon.engine.request import ActiveRequest, Choice, Prepared
from mlxd.daemon.engine.tokenization.text import Channel, Markers, TextSplitter

MARKERS = Markers("<think>", "</think>", "<tool_call>", "</tool_call>")


class CharDetokenizer:
    """Token n is the character with code n."""

    def __init__(self) -> None:
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = chr(token)

    def finalize(self) -> None:
        self.last_segment = ""


def run(
    text: str, *, reason: str = "stop", stops: tuple[str, ...] = ()
) -> tuple[Choice, list[Any]]:
    choice = Choice(
        0,
        TextSplitter(MARKERS, stops),
        CharDetokenizer(),
        tool_parser=lambda raw, tools: json.loads(raw),
    )
    events: list[Any] = []
    for char in text:
        events += choice.accept(ord(char), ends=False)
    events += choice.finish(reason)
    return choice, events


def test_deltas_add_up_to_the_result() -> None:
    choice, events = run("<think>hm</think>\n\nfour")
    out = choice.to_map()
    deltas = [payload for kind, payload in events if kind == "delta"]
    answer = "".join(d["text"] for d in deltas if d["channel"] == "answer")
    reasoning = "".join(d["text"] for d in deltas if d["channel"] == "reasoning")
    assert out["text"] == answer == "four"
    assert out["reasoning"] == reasoning == "hm"
    assert choice.reasoning_tokens == len("hm</think>")


def test_a_tool_call_is_an_event_and_not_text() -> None:
    choice, events = run('<tool_call>\n{"name": "f", "arguments": {"x": "1"}}\n</tool_call>')
    calls = [payload for kind, payload in events if kind == "tool_call"]
    assert calls == [{"index": 0, "id": "call_0_0", "name": "f", "arguments": {"x": "1"}}]
    assert choice.to_map()["text"] == ""
    assert choice.finish_reason == "tool_calls"


def test_every_tool_call_has_its_own_id() -> None:
    choice, _ = run('<tool_call>{"name": "f", "arguments": {}}</tool_call>' * 2)
    assert [call["id"] for call in choice.tool_calls] == ["call_0_0", "call_0_1"]


def test_a_tool_call_that_is_no_json_becomes_text_with_a_note() -> None:
    choice, _ = run("<tool_call>oops</tool_call>")
    assert choice.to_map()["text"] == "oops"
    assert choice.notes
    assert choice.finish_reason == "stop"


def test_a_tool_call_truncated_by_max_tokens_has_a_note() -> None:
    choice, _ = run('<tool_call>{"name"', reason="length")
    assert choice.finish_reason == "length"
    assert "max_tokens" in choice.notes[0]


def test_a_tool_call_without_an_end_marker_ends_at_the_end_token() -> None:
    choice, _ = run('<tool_call>{"name": "f", "arguments": {}}')
    assert choice.tool_calls[0]["name"] == "f"


def test_usage_counts_every_choice() -> None:
    request = ActiveRequest(
        GenerationRequest(1, "chat", ModelRef("m", "/m"), TextPrompt(""), seed=7),
        prepared=Prepared([1, 2]),
    )
    request.prompt_tokens = 2
    request.choices = [run("ab")[0], run("cde")[0]]
    assert request.usage()["completion_tokens"] == 5
    result = request.result()
    assert result["applied"]["seed"] == 7
    assert [choice["text"] for choice in result["choices"]] == ["ab", "cde"]


def test_a_model_with_an_adapter_has_another_key() -> None:
    base = ModelRef("m", "/m")
    assert base.key != ModelRef("m", "/m", adapter="/a").key
    assert ModelRef.from_map({"name": "m", "path": "/m", "unknown": 1}) == base


def test_reasoning_tokens_are_counted_until_the_end_marker() -> None:
    choice = Choice(0, TextSplitter(MARKERS, (), Channel.REASONING), CharDetokenizer())
    for char in "x</think>yz":
        choice.accept(ord(char), ends=False)
    assert choice.reasoning_tokens == len("x</think>")
