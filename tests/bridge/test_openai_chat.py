"""OpenAI's chat completions: what is asked of the daemon, and what the client is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlxd.http.answers import DEFAULT_MAX_TOKENS
from mlxd.http.dialects import openai, openai_chat
from mlxd.protocol.errors import ContextOverflow, EngineDied, InvalidParams
from mlxd.protocol.methods import validate
from support.answers_of import CALL, PREFILL, called, choice, delta, result
from support.bridge import sse_data

TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "pocket", "messages": [{"role": "user", "content": "hi"}], **fields}


def params(**fields: Any) -> dict[str, Any]:
    """Translate a body, and check the parameters as the daemon does."""
    found = openai_chat.plan(body(**fields)).params
    validate("chat", found)
    return found


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = params(messages=[*given])["messages"]
    return found


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidParams) as caught:
        params(**fields)
    return str(caught.value.data["param"])


def stream(*events: dict[str, Any], end: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
    writer = openai_chat.plan(body(stream=True, **fields)).writer
    assert writer is not None
    data = b"".join(map(writer.event, events))
    return list(sse_data(data + writer.end(end or result(choice("x")))))


def choices_of(chunks: list[Any]) -> list[Any]:
    return [one["choices"][0] for one in chunks[:-1] if one["choices"]]


# ---- requests


def test_sampling_fields_are_passed_on() -> None:
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 2, "seed": 3,
        "stop": ["a"], "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"5": -100},
    }  # fmt: skip
    assert given.items() <= params(**given).items()


def test_names_of_other_servers_are_understood() -> None:
    found = params(repeat_penalty=1.1, chat_template_kwargs={"enable_thinking": False})
    assert found["repetition_penalty"] == 1.1
    assert found["template_kwargs"] == {"enable_thinking": False}


def test_null_is_the_same_as_absent() -> None:
    nulls = dict.fromkeys(["temperature", "stop", "tools", "tool_choice", "response_format", "n"])
    assert params(**nulls, stream=None, logprobs=None) == params()


def test_without_a_limit_the_answer_may_take_the_rest_of_the_context() -> None:
    plan = openai_chat.plan(body())
    assert plan.params["max_tokens"] == DEFAULT_MAX_TOKENS
    assert not plan.has_own_limit


def test_the_newer_name_of_the_limit_wins() -> None:
    assert params(max_tokens=5, max_completion_tokens=7)["max_tokens"] == 7


def test_a_limit_beyond_every_context_is_lowered_instead_of_refused() -> None:
    assert params(max_tokens=10**9)["max_tokens"] == 2**20


def test_content_may_be_text_parts_or_null() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = messages(
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "c"},
    )
    assert [one["content"] for one in found] == ["ab", "", "c"]


def test_an_image_is_refused_by_its_place() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    where = refused(messages=[{"role": "user", "content": [image]}])
    assert where == "messages[0].content[0]"


def test_developer_is_system() -> None:
    assert messages({"role": "developer", "content": "x"})[0]["role"] == "system"


def test_system_messages_in_mid_conversation_keep_their_place() -> None:
    plan = openai_chat.plan(
        body(
            messages=[
                {"role": "system", "content": "a"},
                {"role": "system", "content": "b"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "system", "content": "hurry"},
                {"role": "user", "content": "three"},
                {"role": "system", "content": "end"},
            ]
        )
    )
    found = plan.params["messages"]
    assert [one["role"] for one in found] == ["system", "user", "assistant", "user", "user"]
    assert found[0]["content"] == "a\n\nb"
    assert found[3]["content"] == "<system>\nhurry\n</system>\n\nthree"
    assert found[4]["content"] == "<system>\nend\n</system>"
    assert "system messages" in plan.notes[0]


def test_reasoning_of_earlier_answers_is_passed_back() -> None:
    for name in ("reasoning_content", "reasoning"):
        found = messages(
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", name: "because"},
            {"role": "user", "content": "c"},
        )
        assert found[1]["reasoning"] == "because"


def test_arguments_of_earlier_calls_become_objects() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    found = messages(
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
    )
    assert found[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert found[2] == {"role": "tool", "content": "r", "tool_call_id": "c1"}


def test_foreign_kinds_of_tools_are_skipped_with_a_note() -> None:
    plan = openai_chat.plan(body(tools=[{"type": "web_search"}, TOOL]))
    assert [one["function"]["name"] for one in plan.params["tools"]] == ["get_weather"]
    assert plan.notes == ("ignored: tools[0] of the type web_search",)


def test_the_choice_of_a_tool_reaches_the_daemon_in_every_form() -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    for given, expected in (
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        (named, "get_weather"),
        (allowed, "required"),
    ):
        assert params(tools=[TOOL], tool_choice=given)["tool_choice"] == expected
    assert refused(tool_choice="required") == "tool_choice"
    assert refused(tools=[TOOL], tool_choice={"type": "x"}) == "tool_choice"


def test_response_formats_become_constraints() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert "schema" not in params(response_format={"type": "text"})
    assert params(response_format={"type": "json_object"})["schema"] == {"type": "object"}
    given = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert params(response_format=given)["schema"] == schema
    assert refused(response_format={"type": "xml"}) == "response_format.type"


def test_a_field_that_would_change_the_answer_is_refused() -> None:
    assert refused(min_tokens=5) == "min_tokens"
    assert refused(stop_token_ids=[5]) == "stop_token_ids"
    assert refused(add_generation_prompt=False) == "add_generation_prompt"
    assert refused(echo=True) == "echo"
    assert refused(modalities=["text", "audio"]) == "modalities"
    assert params(modalities=["text"], min_tokens=0)


def test_other_unknown_fields_are_noted_and_harmless_ones_are_not() -> None:
    plan = openai_chat.plan(body(surprise=1, user="me", store=True, metadata={}))
    assert plan.notes == ("ignored: surprise",)


def test_reasoning_effort_turns_thinking_on_or_off() -> None:
    assert params(reasoning_effort="none")["thinking"] is False
    assert params(reasoning_effort="high")["thinking"] is True
    assert params(reasoning={"effort": "low"})["thinking"] is True
    assert "thinking" not in params()


def test_logprobs_ask_for_alternatives() -> None:
    assert params(logprobs=True)["logprobs"] == 0
    assert params(logprobs=True, top_logprobs=4)["logprobs"] == 4
    assert refused(top_logprobs=4) == "top_logprobs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", None), ("messages", []), ("messages", "hi"), ("messages", [1]),
        ("stream", "yes"), ("stream_options", 1), ("tools", {}), ("tools", [1]),
        ("response_format", "json"), ("messages", [{"role": "wizard", "content": "x"}]),
        ("messages", [{"role": "user", "content": 5}]), ("tools", [{"type": "function"}]),
    ],
)  # fmt: skip
def test_fields_of_the_wrong_type_are_named(field: str, value: Any) -> None:
    assert refused(**{"stream": True, field: value}).startswith(field)


# ---- whole answers


def test_a_whole_answer() -> None:
    found = openai_chat.whole(result(choice("hello", reasoning="hm")), "m")
    assert found["object"] == "chat.completion"
    message = found["choices"][0]["message"]
    assert message["content"] == "hello"
    assert message["reasoning_content"] == message["reasoning"] == "hm"
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_calls_of_a_whole_answer_have_ids_of_their_own() -> None:
    two = choice(finish="tool_calls", tool_calls=[CALL, CALL])
    message = openai_chat.whole(result(two), "m")["choices"][0]["message"]
    first, second = message["tool_calls"]
    assert message["content"] is None
    assert first["id"] != second["id"]
    assert json.loads(first["function"]["arguments"]) == {"city": "Paris"}


def test_log_probabilities_of_chat() -> None:
    given = [{"token": 3, "text": "é", "logprob": -1, "top": [{"text": "e", "logprob": -2}]}]
    found = openai_chat.logprobs(given)
    assert found is not None
    first = found["content"][0]
    assert (first["token"], first["bytes"]) == ("é", [195, 169])
    assert first["top_logprobs"][0]["token"] == "e"


# ---- streams


def test_every_chunk_has_the_same_id_time_and_model() -> None:
    chunks = stream(PREFILL, delta("a"), delta("b"), called("f"))
    assert chunks[-1] == "[DONE]"
    for key in ("id", "object", "created", "model"):
        assert len({one[key] for one in chunks[:-1]}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"


def test_only_the_first_chunk_has_the_role() -> None:
    found = choices_of(stream(delta("a"), delta("b")))
    assert [one["delta"].get("role") for one in found] == ["assistant", None, None, None]
    assert "".join(one["delta"].get("content", "") for one in found) == "ab"


def test_each_of_several_answers_has_its_own_role_and_end() -> None:
    events = (delta("a"), delta("b", index=1))
    found = choices_of(stream(*events, end=result(choice("a"), choice("b", 1, "length"))))
    assert [one["index"] for one in found if "role" in one["delta"]] == [0, 1]
    ends = [(one["index"], one["finish_reason"]) for one in found if one["finish_reason"]]
    assert ends == [(0, "stop"), (1, "length")]


def test_calls_have_rising_indexes_and_ids_of_their_own() -> None:
    end = result(choice(finish="tool_calls", tool_calls=[CALL, CALL]))
    found = choices_of(stream(called("f", city="Paris"), called("g"), end=end))
    calls = [call for one in found for call in one["delta"].get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert all(call["id"] for call in calls)
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Paris"}
    assert found[-1]["finish_reason"] == "tool_calls"


def test_reasoning_has_both_of_its_names() -> None:
    found = choices_of(stream(delta("hm", channel="reasoning")))[1]["delta"]
    assert found == {"reasoning_content": "hm", "reasoning": "hm"}


def test_usage_comes_only_if_asked_for_and_in_a_chunk_of_its_own() -> None:
    assert not any("usage" in one for one in stream(delta("a"))[:-1])
    chunks = stream(delta("a"), stream_options={"include_usage": True})
    assert [one["usage"] is None for one in chunks[:-1]] == [True, True, True, False]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["total_tokens"] == 18


def test_the_sign_of_life_is_an_empty_delta_of_the_same_answer() -> None:
    writer = openai_chat.ChatWriter("m", include_usage=False)
    chunks = list(sse_data(writer.alive() + writer.event(delta("a")) + writer.alive()))
    assert [one["choices"][0]["delta"].get("content") for one in chunks] == ["", "", "a", ""]
    assert len({one["id"] for one in chunks}) == 1
    assert [one["choices"][0]["delta"].get("role") for one in chunks].count("assistant") == 1


def test_a_failure_in_mid_stream_is_an_error_and_then_the_end_marker() -> None:
    writer = openai_chat.ChatWriter("m", include_usage=False)
    first, last = sse_data(writer.fail(EngineDied("gone")))
    assert first["error"]["code"] == "engine_died"
    assert last == "[DONE]"


def test_streams_are_ascii_so_that_no_client_splits_a_line_elsewhere() -> None:
    writer = openai_chat.ChatWriter("m", include_usage=False)
    data = writer.event(delta("a\u2028b\x85c\nd"))
    assert data.isascii()
    assert data.count(b"\n") == 4


# ---- errors


def test_an_overflow_has_the_code_that_agents_look_for() -> None:
    status, error = openai.error_body(ContextOverflow("too long"))
    assert (status, error["error"]["code"]) == (400, "context_length_exceeded")


def test_an_error_names_its_field() -> None:
    status, error = openai.error_body(InvalidParams("top_p", "must be 1"))
    assert (status, error["error"]["param"]) == (400, "top_p")
    assert error["error"]["type"] == "invalid_request_error"
