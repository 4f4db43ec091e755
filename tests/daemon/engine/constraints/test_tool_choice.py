"""A forced call names the tool, uses the model's own format and has valid arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mlx_lm.tool_parsers import mistral

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.constraints.schema_audit import exact
from mlxd.daemon.engine.constraints.tool_choice import CallForm, ToolUse, call_source
from mlxd.daemon.engine.generation import GenerationParams
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import validate
from support.engine_process import POCKET, EngineProcess, running_engine
from support.tokenizer_families import FAMILIES, Family, write

PLACE = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "days": {"type": "integer", "maximum": 9, "minimum": 1},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "minLength": 1, "maxLength": 8, "pattern": "^[A-Za-z]*$"}},
}  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": NOTHING}}
TOOLS = [WEATHER, CLOCK]
COUNT = "Count from 3 to 7."
USER = [{"role": "user", "content": COUNT}]


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        yield running


@pytest.mark.parametrize("thinking", [None, True])
@pytest.mark.parametrize("choice", ["required", "get_weather", {"function": {"name": "get_time"}}])
def test_tool_choice_forces_a_valid_call_even_if_the_prompt_needs_none(
    engine: EngineProcess, choice: Any, thinking: bool | None
) -> None:
    result = engine.ask(COUNT, tools=TOOLS, tool_choice=choice, thinking=thinking, max_tokens=400)
    answer = result["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["tool_calls"]
    assert answer["text"] == ""
    if choice == "get_weather" or call["name"] == "get_weather":
        jsonschema.validate(call["arguments"], PLACE)
    else:
        assert (call["name"], call["arguments"]) == ("get_time", {})
    assert result["applied"]["constrained"]
    assert not any("no tool can be called" in note for note in result["applied"]["notes"])


def test_auto_and_none_do_not_force_a_call_and_none_hides_the_tools(
    engine: EngineProcess,
) -> None:
    ask = "Get the weather for Paris."
    sizes = {
        choice: engine.ask(ask, tools=TOOLS, tool_choice=choice)["usage"]["prompt_tokens"]
        for choice in ("auto", "none")
    }
    assert sizes["none"] == engine.ask(ask)["usage"]["prompt_tokens"] < sizes["auto"]
    assert engine.ask(ask, tools=TOOLS, tool_choice="none")["choices"][0]["tool_calls"] == []
    assert engine.ask(ask, tools=TOOLS)["choices"][0]["tool_calls"]


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"tool_choice": "required"}, "needs tools"),
        ({"tool_choice": "other", "tools": TOOLS}, "not one of the tools"),
        ({"tool_choice": "required", "tools": TOOLS, "regex": "a"}, "combined with regex"),
        ({"tool_choice": 5, "tools": TOOLS}, "name of a tool"),
        ({"tool_choice": {"function": {}}, "tools": TOOLS}, "name of a tool"),
    ],
)
def test_an_invalid_tool_choice_is_refused_by_name(params: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidParams, match=word) as refusal:
        validate("chat", {"messages": USER, **params})
    assert refusal.value.data["param"] == "tool_choice"


def test_forced_tools_lists_only_tools_that_must_be_called() -> None:
    for choice, names in (("auto", []), ("none", []), ("required", TOOLS), ("get_time", [CLOCK])):
        params = validate("chat", {"messages": USER, "tools": TOOLS, "tool_choice": choice})
        assert list(ToolUse.from_map(params).forced) == names


@pytest.mark.parametrize("parser", ["", "pythonic", "glm47", "gemma4"])
def test_an_unknown_tool_call_format_is_refused_by_name(parser: str) -> None:
    with pytest.raises(InvalidParams, match=parser or "unknown format") as refusal:
        call_source(CallForm(parser, "<a>", "</a>", {}), TOOLS)
    assert refusal.value.data["param"] == "tool_choice"


def test_a_request_that_cannot_be_parsed_ends_with_an_error_and_the_engine_goes_on(
    engine: EngineProcess,
) -> None:
    messages = [*USER, {"role": "assistant", "content": None, "tool_calls": [{"arguments": {}}]}]
    refused = engine.result(engine.submit("chat", messages=messages))
    assert refused["error"]["code"] == "invalid_params"
    assert refused["error"]["data"]["param"] == "messages.tool_calls"
    assert engine.ask(COUNT)["choices"][0]["text"]


MISTRAL = FAMILIES["mistral"]
WITH_ARGS = Family(MISTRAL.build, ("[ARGS]", *MISTRAL.special), MISTRAL.template)


@pytest.mark.parametrize("kind", [MISTRAL, WITH_ARGS], ids=["list", "args"])
def test_forced_calls_in_mistral_format_are_parsed_by_mistrals_parser(
    kind: Family, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(ModelRef("mistral", str(write(kind, tmp_path))), compile_pool())
    params = {"tools": TOOLS, "tool_choice": "required"}
    future = tokenizer.constraints.begin(GenerationParams.from_map(params))
    assert future is not None
    seen = set()
    for seed in range(40):
        rng, state = random.Random(seed), future.result().start()
        tokens: list[int] = []
        ends = tokenizer.wrapper.eos_token_ids
        while len(tokens) < 300:
            token = rng.choice(state.mask().nonzero()[0].tolist())
            if token in ends:
                break
            state.advance(token)
            tokens.append(token)
        assert tokenizer.wrapper.convert_ids_to_tokens(tokens[0]) == "[TOOL_CALLS]"
        call = mistral.parse_tool_call(tokenizer.wrapper.decode(tokens[1:]))
        seen.add(call["name"])
        if call["name"] == "get_weather":
            jsonschema.validate(json.loads(json.dumps(call["arguments"])), exact(PLACE)[0])
    assert seen == {"get_weather", "get_time"}


def test_unenforced_keywords_of_a_tool_schema_are_noted() -> None:
    day = {"type": "object", "properties": {"on": {"type": "string", "format": "date"}}}
    tool = {"function": {"name": "book", "parameters": day}}
    tokenizer = Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())
    future = tokenizer.constraints.begin(
        GenerationParams.from_map({"tools": [tool], "tool_choice": "book"})
    )
    assert future is not None
    assert any("tool book" in note and "29 February" in note for note in future.result().notes)
