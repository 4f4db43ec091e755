"""Anthropic's messages: what is asked of the daemon, and the order of the events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxd.http.dialects import anthropic, anthropic_stream
from mlxd.protocol.errors import ContextOverflow, InvalidParams, Overloaded
from mlxd.protocol.methods import validate
from support.answers_of import CALL, PREFILL, called, choice, delta, result
from support.bridge import sse_named

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "get_weather", "description": "d", "input_schema": {"type": "object"}}


def params(**fields: Any) -> dict[str, Any]:
    found = anthropic.plan({"model": "m", "max_tokens": 9, "messages": [USER], **fields}).params
    validate("chat", found)
    return found


def messages(*given: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = params(messages=[*given], **fields)["messages"]
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidParams) as caught:
        params(**fields)
    return str(caught.value.data["param"])


def stream(*events: dict[str, Any], end: dict[str, Any] | None = None) -> list[tuple[str, Any]]:
    writer = anthropic_stream.MessageWriter("m")
    data = b"".join(map(writer.event, events))
    return list(sse_named(data + writer.end(end or result(choice("x")))))


# ---- requests


def test_sampling_and_stops() -> None:
    found = params(temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["x"])
    assert {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["x"]}.items() <= found.items()
    assert found["max_tokens"] == 9


def test_the_system_prompt_may_be_text_or_blocks() -> None:
    blocks = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "b"},
    ]
    assert messages(USER, system="a")[0] == {"role": "system", "content": "a"}
    assert messages(USER, system=blocks)[0] == {"role": "system", "content": "a\n\nb"}
    assert messages(USER, system=[])[0]["role"] == "user"


def test_the_changing_billing_line_is_removed() -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.37.3a3; cc_entrypoint=cli; cch=12ab;"
    plain = [{"type": "text", "text": "You are Claude Code."}]
    expected = messages(USER, system=plain)
    assert messages(USER, system=[{"type": "text", "text": line}, *plain]) == expected
    assert messages(USER, system=f"{line}\nYou are Claude Code.") == expected


def test_a_system_role_inside_the_messages_keeps_its_place() -> None:
    found = messages(
        USER,
        {"role": "assistant", "content": "yes"},
        {"role": "system", "content": [{"type": "text", "text": "note"}]},
        {"role": "user", "content": "go"},
    )
    assert [one["role"] for one in found] == ["user", "assistant", "user"]
    assert found[2]["content"] == "<system>\nnote\n</system>\n\ngo"


def test_results_of_tools_come_before_the_text_of_the_same_message() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    answer = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "r"}],
    }
    failed = {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True}
    found = messages(
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "ok"}, use]},
        {"role": "user", "content": [{"type": "text", "text": "then"}, answer, failed]},
    )
    assert found[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert found[2] == {"role": "tool", "content": "r", "tool_call_id": "t1"}
    assert found[3]["content"] == "Error: no"
    assert found[4] == {"role": "user", "content": "then"}


def test_thinking_is_passed_back() -> None:
    thinking = {"type": "thinking", "thinking": "because", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    text = {"type": "text", "text": "so"}
    found = messages(USER, {"role": "assistant", "content": [thinking, hidden, text]}, USER)
    assert found[1] == {"role": "assistant", "content": "so", "reasoning": "because"}


def test_images_are_refused_by_their_place() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": ""}}
    assert refused(messages=[{"role": "user", "content": [image]}]).startswith("messages.0.content")


def test_choices_of_tools_and_tools_of_anthropics_servers() -> None:
    plan = anthropic.plan(
        {"messages": [USER], "tools": [{"type": "web_search_20250305", "name": "w"}, TOOL]}
    )
    assert [one["function"]["name"] for one in plan.params["tools"]] == ["get_weather"]
    assert plan.notes == ("ignored: tools.0 of the type web_search_20250305",)
    for given, expected in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "get_weather"}, "get_weather"),
    ):
        assert params(tools=[TOOL], tool_choice=given)["tool_choice"] == expected
    assert refused(tools=[TOOL], tool_choice={"type": "x"}) == "tool_choice.type"


def test_thinking_is_turned_on_and_off() -> None:
    assert params(thinking={"type": "enabled", "budget_tokens": 1024})["thinking"] is True
    assert params(thinking={"type": "adaptive"})["thinking"] is True
    assert params(thinking={"type": "disabled"})["thinking"] is False
    assert params(output_config={"effort": "high"})["thinking"] is True
    assert "thinking" not in params()


def test_an_output_format_is_a_constraint() -> None:
    given = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert params(output_config=given)["schema"] == {"type": "object"}


# ---- answers


def test_a_whole_answer() -> None:
    first = choice("hello", finish="tool_calls", reasoning="hm", tool_calls=[CALL])
    found = anthropic.whole(result(first), "m")
    assert [one["type"] for one in found["content"]] == ["thinking", "text", "tool_use"]
    assert found["content"][2]["input"] == {"city": "Paris"}
    assert found["stop_reason"] == "tool_use"
    assert found["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
    }


def test_the_order_of_events() -> None:
    events = (
        PREFILL,
        delta("hm", channel="reasoning"),
        delta("so"),
        delta(" it"),
        called("f", a=1),
    )
    found = stream(*events, called("g"), end=result(choice(finish="tool_calls")))
    block = ["content_block_start", "content_block_delta"]
    assert [name for name, _ in found] == [
        "message_start", "ping",
        *block, "content_block_delta", "content_block_stop",  # thinking, and its signature
        *block, "content_block_delta", "content_block_stop",
        *block, "content_block_stop",
        *block, "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert all(value["type"] == name for name, value in found)
    starts = [value for name, value in found if name == "content_block_start"]
    assert [one["index"] for one in starts] == [0, 1, 2, 3]
    kinds = [one["content_block"]["type"] for one in starts]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert starts[2]["content_block"]["id"] != starts[3]["content_block"]["id"]
    deltas = [value["delta"] for name, value in found if name == "content_block_delta"]
    assert [one["type"] for one in deltas] == [
        "thinking_delta", "signature_delta", "text_delta", "text_delta",
        "input_json_delta", "input_json_delta",
    ]  # fmt: skip
    assert json.loads(deltas[4]["partial_json"]) == {"a": 1}
    assert found[-2][1]["delta"]["stop_reason"] == "tool_use"


def test_the_first_event_has_the_true_number_of_input_tokens() -> None:
    for events in ((PREFILL, delta("a")), ()):
        name, value = stream(*events)[0]
        assert (name, value["message"]["usage"]["input_tokens"]) == ("message_start", 11)


def test_signs_of_life_are_pings_even_before_the_message() -> None:
    writer = anthropic_stream.MessageWriter("m")
    assert [name for name, _ in sse_named(writer.alive() + writer.event(PREFILL))] == [
        "ping", "message_start", "ping",
    ]  # fmt: skip


def test_the_reason_of_the_end() -> None:
    for ours, theirs in (("stop", "end_turn"), ("length", "max_tokens")):
        found = stream(delta("a"), end=result(choice("a", finish=ours)))
        assert found[-2][1]["delta"]["stop_reason"] == theirs


# ---- errors


def test_an_overflow_has_the_words_on_which_claude_code_compacts() -> None:
    error = ContextOverflow("x", data={"prompt_tokens": 9000, "context_tokens": 8192})
    status, body = anthropic.error_body(error)
    assert status == 400
    assert body["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 9000 tokens > 8192 maximum",
    }


def test_overload_has_anthropics_own_status() -> None:
    status, body = anthropic.error_body(Overloaded("busy"))
    assert (status, body["type"], body["error"]["type"]) == (529, "error", "overloaded_error")


def test_a_failure_in_mid_stream_is_an_event() -> None:
    writer = anthropic_stream.MessageWriter("m")
    ((name, value),) = sse_named(writer.fail(Overloaded("busy")))
    assert (name, value["type"]) == ("error", "error")
