"""The client libraries of OpenAI, Anthropic and Ollama, as their users call them."""

from __future__ import annotations

from typing import Any

import anthropic
import ollama
import openai
import pytest

from support.bridge import Bridge
from support.daemon_process import Daemon, user

QUESTION = user("Count from 3 to 7.")
ANSWER = "3, 4, 5, 6, 7"
WEATHER = user("Get the weather for Paris.")
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
FUNCTION = {"name": "get_weather", "description": "Get the weather.", "parameters": CITY}
GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}
"""Some releases of the library have no parameter for the temperature."""
OVERFLOW = user("word " * 40_000)


@pytest.fixture(scope="module")
def to_openai(bridge: Bridge) -> Any:
    with openai.OpenAI(base_url=f"{bridge.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def to_anthropic(bridge: Bridge) -> Any:
    with anthropic.Anthropic(base_url=bridge.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def to_ollama(bridge: Bridge) -> Any:
    with ollama.Client(host=bridge.url) as client:
        yield client


# ---- openai


def test_openai_answers_whole_and_streamed(to_openai: Any) -> None:
    ask = {"model": "pocket", "messages": QUESTION, "temperature": 0}
    assert to_openai.chat.completions.create(**ask).choices[0].message.content == ANSWER
    text, usage = "", None
    more = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in to_openai.chat.completions.create(**ask, **more):
        usage = chunk.usage or usage
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    assert text == ANSWER
    assert usage is not None
    assert usage.completion_tokens > 0


def test_openai_calls_a_tool_and_takes_its_result(to_openai: Any) -> None:
    ask = {"model": "pocket", "temperature": 0}
    tools = [{"type": "function", "function": FUNCTION}]
    with to_openai.chat.completions.stream(**ask, messages=WEATHER, tools=tools) as stream:
        message = stream.get_final_completion().choices[0].message
    call = message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Paris"}')
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*WEATHER, message.to_dict(), result]
    answer = to_openai.chat.completions.create(**ask, messages=messages).choices[0]
    assert "sunny" in answer.message.content


def test_openai_forces_a_tool(to_openai: Any) -> None:
    answer = to_openai.chat.completions.create(
        model="pocket",
        messages=QUESTION,
        tools=[{"type": "function", "function": FUNCTION}],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        temperature=0,
        max_tokens=60,
    )
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert answer.choices[0].finish_reason == "tool_calls"


def test_openai_raises_typed_errors(to_openai: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        to_openai.chat.completions.create(model="nope", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        to_openai.chat.completions.create(model="pocket", messages=OVERFLOW)
    assert caught.value.code == "context_length_exceeded"


def test_openai_lists_models(to_openai: Any) -> None:
    assert "pocket" in [one.id for one in to_openai.models.list()]
    assert to_openai.models.retrieve("pocket").created > 0


def test_openai_responses_whole_and_streamed(to_openai: Any) -> None:
    ask = {"model": "pocket", "input": QUESTION, "temperature": 0}
    whole = to_openai.responses.create(**ask)
    assert whole.output_text == ANSWER
    with to_openai.responses.stream(**ask) as stream:
        assert stream.get_final_response().output_text == ANSWER
    counted = to_openai.responses.input_tokens.count(model="pocket", input=QUESTION)
    assert counted.input_tokens == whole.usage.input_tokens


def test_openai_responses_call_a_tool_and_take_its_result(to_openai: Any) -> None:
    ask = {"model": "pocket", "temperature": 0}
    tools = [{"type": "function", **FUNCTION}]
    with to_openai.responses.stream(**ask, input=WEATHER, tools=tools) as stream:
        call = stream.get_final_response().output[-1]
    assert (call.name, call.arguments) == ("get_weather", '{"city":"Paris"}')
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    made = {"type": "function_call", "call_id": call.call_id, "name": call.name}
    items = [*WEATHER, {**made, "arguments": call.arguments}, output]
    assert "sunny" in to_openai.responses.create(**ask, input=items).output_text


# ---- anthropic


def test_anthropic_answers_whole_and_streamed(to_anthropic: Any) -> None:
    ask = {"model": "pocket", "messages": QUESTION, "max_tokens": 100, **GREEDY}
    whole = to_anthropic.messages.create(**ask)
    assert whole.content[0].text == ANSWER
    with to_anthropic.messages.stream(**ask) as stream:
        assert "".join(stream.text_stream) == ANSWER
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    total = final.usage.input_tokens + final.usage.cache_read_input_tokens
    counted = to_anthropic.messages.count_tokens(model="pocket", messages=QUESTION)
    assert counted.input_tokens == total


def test_anthropic_thinks(to_anthropic: Any) -> None:
    with to_anthropic.messages.stream(
        model="pocket",
        messages=user("Count from 5 to 8."),
        max_tokens=2000,
        **GREEDY,
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        content = stream.get_final_message().content
    assert [one.type for one in content] == ["thinking", "text"]
    assert content[0].signature
    assert content[1].text == "5, 6, 7, 8"


def test_anthropic_calls_a_tool_and_takes_its_result(to_anthropic: Any) -> None:
    tool = {"name": "get_weather", "description": "Get the weather.", "input_schema": CITY}
    ask = {"model": "pocket", "max_tokens": 100, "tools": [tool], **GREEDY}
    with to_anthropic.messages.stream(**ask, messages=WEATHER) as stream:
        message = stream.get_final_message()
    call = message.content[-1]
    assert (message.stop_reason, call.name, call.input) == (
        "tool_use",
        "get_weather",
        {"city": "Paris"},
    )
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    messages = [
        *WEATHER,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = to_anthropic.messages.create(**ask, messages=messages)
    assert "sunny" in answer.content[0].text


def test_anthropic_raises_typed_errors(to_anthropic: Any) -> None:
    with pytest.raises(anthropic.NotFoundError):
        to_anthropic.messages.create(model="nope", messages=QUESTION, max_tokens=5)
    with pytest.raises(
        anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 16384 maximum"
    ):
        to_anthropic.messages.create(model="pocket", messages=OVERFLOW, max_tokens=5)


def test_anthropic_lists_models(to_anthropic: Any) -> None:
    assert "pocket" in [one.id for one in to_anthropic.models.list()]


# ---- ollama


def test_ollama_answers_whole_and_streamed(to_ollama: Any) -> None:
    ask = {"model": "pocket:latest", "options": {"temperature": 0}}
    assert to_ollama.chat(**ask, messages=QUESTION).message.content == ANSWER
    parts = list(to_ollama.chat(**ask, messages=QUESTION, stream=True))
    assert "".join(one.message.content for one in parts) == ANSWER
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")
    prompt = QUESTION[0]["content"]
    assert to_ollama.generate(**ask, prompt=prompt).response == ANSWER


def test_ollama_calls_a_tool(to_ollama: Any) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    options = {"temperature": 0}
    found = to_ollama.chat("pocket", WEATHER, tools=tools, options=options)
    call = found.message.tool_calls[0].function
    assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})


def test_ollama_lists_shows_loads_and_unloads_models(to_ollama: Any, daemon: Daemon) -> None:
    assert "pocket" in [one.model for one in to_ollama.list().models]
    shown = to_ollama.show("pocket")
    assert shown.modelinfo["general.architecture"] == "qwen3"
    assert shown.modelinfo["qwen3.context_length"] == 16384
    assert {"completion", "tools", "thinking"} == {*shown.capabilities}
    try:
        assert to_ollama.generate("pocket", keep_alive=0).done_reason == "unload"
        assert "pocket" not in [one.model for one in to_ollama.ps().models]
    finally:
        assert to_ollama.chat("pocket", keep_alive="30m").done_reason == "load"
    assert "pocket" in [one.model for one in to_ollama.ps().models]


def test_ollama_copies_to_an_alias(to_ollama: Any, daemon: Daemon) -> None:
    to_ollama.copy("pocket", "small")
    try:
        assert "small" in [one.model for one in to_ollama.list().models]
    finally:
        daemon.ask("models.alias", alias="small")


def test_ollama_raises_its_error(to_ollama: Any) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        to_ollama.chat("nope", QUESTION)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as caught:
        to_ollama.embed("pocket", "x")
    assert caught.value.status_code == 501
