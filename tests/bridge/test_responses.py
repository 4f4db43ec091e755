"""OpenAI's Responses: input items, and the order of the events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxd.http.dialects import responses
from mlxd.protocol.errors import EngineDied, InvalidParams
from mlxd.protocol.methods import validate
from support.answers_of import CALL, PREFILL, called, choice, delta, result
from support.bridge import sse_named

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


def plan(given: Any = "hi", **fields: Any) -> Any:
    found = responses.plan({"model": "m", "input": given, **fields})
    validate("chat", found.params)
    return found


def messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plan([*items], **fields).params["messages"]
    return found


def refused(given: Any = "hi", **fields: Any) -> str:
    with pytest.raises(InvalidParams) as caught:
        plan(given, **fields)
    return str(caught.value.data["param"])


def stream(*events: dict[str, Any], end: dict[str, Any] | None = None) -> list[tuple[str, Any]]:
    writer = plan(stream=True).writer
    data = b"".join(map(writer.event, events))
    return list(sse_named(data + writer.end(end or result(choice("x")))))


# ---- requests


def test_input_is_text_or_items_and_instructions_come_first() -> None:
    assert plan("hi", instructions="be brief").params["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    ]
    part = {"type": "input_text", "text": "hi"}
    found = messages({"role": "developer", "content": [part]}, {"role": "user", "content": [part]})
    assert [one["role"] for one in found] == ["system", "user"]


def test_the_items_of_one_answer_become_one_message() -> None:
    found = messages(
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "r1"},
        {"type": "function_call_output", "call_id": "c2", "output": "r2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"role": "user", "content": "thanks"},
    )
    roles = ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert [one["role"] for one in found] == roles
    assert found[1]["reasoning"] == "hm"
    assert [call["function"]["name"] for call in found[1]["tool_calls"]] == ["f", "g"]
    assert found[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_stored_responses_are_refused_with_the_way_out() -> None:
    assert refused(previous_response_id="resp_1") == "previous_response_id"
    assert refused(conversation="x") == "conversation"
    assert refused(background=True) == "background"
    assert refused([{"type": "item_reference", "id": "x"}]) == "input[0].type"


def test_foreign_tools_are_skipped_and_functions_kept() -> None:
    found = plan(tools=[{"type": "web_search"}, {"type": "custom", "name": "p"}, TOOL])
    assert [one["function"]["name"] for one in found.params["tools"]] == ["get_weather"]
    assert len(found.notes) == 2
    choice_ = {"type": "function", "name": "get_weather"}
    assert plan(tools=[TOOL], tool_choice=choice_).params["tool_choice"] == "get_weather"


def test_text_format_and_reasoning() -> None:
    given = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    assert plan(text=given).params["schema"] == {"type": "object"}
    assert plan(reasoning={"effort": "none"}).params["thinking"] is False
    assert plan(reasoning={"effort": "high"}).params["thinking"] is True


def test_fields_without_effect_are_silent() -> None:
    quiet = {"store": False, "prompt_cache_key": "k", "include": [], "metadata": {"a": "b"}}
    assert plan(**quiet, truncation="auto", user="u").notes == ()


# ---- answers


def test_a_whole_response() -> None:
    first = choice("hello", reasoning="hm", tool_calls=[CALL])
    found = plan().whole(result(first))
    assert (found["object"], found["status"], found["store"]) == ("response", "completed", False)
    assert [one["type"] for one in found["output"]] == ["reasoning", "message", "function_call"]
    assert json.loads(found["output"][2]["arguments"]) == {"city": "Paris"}
    assert found["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 18,
    }


def test_an_answer_that_was_cut_is_incomplete() -> None:
    found = plan().whole(result(choice("a", finish="length")))
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    events = stream(delta("a"), end=result(choice("a", finish="length")))
    assert events[-1][0] == "response.incomplete"


def test_the_order_of_events() -> None:
    events = (
        PREFILL,
        delta("hm", channel="reasoning"),
        delta("so"),
        delta(" it"),
        called("f", a=1),
    )
    found = stream(*events)
    item = ["response.output_item.added", "response.content_part.added"]
    ends = ["response.content_part.done", "response.output_item.done"]
    text, call = "response.output_text", "response.function_call_arguments"
    assert [name for name, _ in found] == [
        "response.created", "response.in_progress",
        *item, "response.reasoning_text.delta", "response.reasoning_text.done", *ends,
        *item, f"{text}.delta", f"{text}.delta", f"{text}.done", *ends,
        item[0], f"{call}.delta", f"{call}.done", ends[1],
        "response.completed",
    ]  # fmt: skip
    assert [value["sequence_number"] for _, value in found] == list(range(len(found)))
    assert all(value["type"] == name for name, value in found)
    added = [value for name, value in found if name == item[0]]
    assert [one["output_index"] for one in added] == [0, 1, 2]
    response = found[-1][1]["response"]
    assert [one["type"] for one in response["output"]] == ["reasoning", "message", "function_call"]
    assert response["output"][1]["content"][0]["text"] == "so it"
    assert response["id"] == found[0][1]["response"]["id"]


def test_signs_of_life_repeat_that_the_response_is_in_progress() -> None:
    writer = plan(stream=True).writer
    data = writer.alive() + writer.alive() + writer.event(delta("a"))
    names = [name for name, _ in sse_named(data)]
    assert names[:3] == ["response.created", "response.in_progress", "response.in_progress"]


def test_a_failure_in_mid_stream_is_a_failed_response() -> None:
    writer = plan(stream=True).writer
    name, value = list(sse_named(writer.event(delta("a")) + writer.fail(EngineDied("gone"))))[-1]
    assert (name, value["response"]["status"]) == ("response.failed", "failed")
    assert value["response"]["error"]["code"] == "engine_died"
