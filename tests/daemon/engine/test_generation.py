"""Parameters of a request are converted to typed ones, once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from mlxd.daemon.engine.decoding.sampling import SequenceSampling
from mlxd.daemon.engine.decoding.sequences import sequence_sampling
from mlxd.daemon.engine.generation import CONSTRAINT_KINDS, GenerationParams, SamplingParams
from mlxd.daemon.engine.prompt import (
    ChatPrompt,
    FillPrompt,
    Prompt,
    TextPrompt,
    TokenPrompt,
    parse_prompt,
)
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import validate
from mlxd.protocol.parameters import SAMPLING
from support.requests import asking

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
PENALTIES = {
    "repetition_penalty",
    "repetition_context_size",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
}
"""Parameters that `logits_processors` applies before sampling."""
MESSAGES = [{"role": "user", "content": "hello"}]


def test_generation_params_contain_every_validated_parameter() -> None:
    given = validate(
        "chat", {"messages": MESSAGES, "n": 3, "top_k": 7, "stop": ["END"], "temperature": 0.5}
    )
    parsed = GenerationParams.from_map(given)
    sampling = parsed.sampling
    assert (parsed.n, sampling.top_k, parsed.stop, sampling.temperature) == (3, 7, ("END",), 0.5)
    assert parsed.max_tokens == given["max_tokens"]
    for part in (parsed, sampling):
        for name in {field.name for field in fields(part)} & given.keys() - {"stop", "tools"}:
            if given[name] is not None:
                assert getattr(part, name) == given[name], name


def test_every_sampling_parameter_of_the_protocol_has_a_field_in_the_engine() -> None:
    known = {field.name for part in (GenerationParams, SamplingParams) for field in fields(part)}
    known |= {"seed", "thinking", *CONSTRAINT_KINDS}  # GenerationRequest, ChatPrompt, constraint
    assert {param.name for param in SAMPLING} <= known


def test_every_sampling_parameter_reaches_the_sampler_or_a_logits_processor() -> None:
    ours = {field.name for field in fields(SamplingParams)}
    sampler = {field.name for field in fields(SequenceSampling)} - {"seed", "xtc_exempt"}
    assert sampler | PENALTIES == ours
    assert sampler.isdisjoint(PENALTIES)
    given = SamplingParams(0.5, 0.4, 3, 0.1, 2, 0.0, 0.3)
    sequence = sequence_sampling(given, 7, None)
    assert {name: getattr(sequence, name) for name in sampler} == {
        name: getattr(given, name) for name in sampler
    }


def test_no_part_of_a_parsed_request_can_be_changed() -> None:
    request = asking(
        "chat", validate("chat", {"messages": MESSAGES, "tools": [TOOL], "schema": {}})
    )
    assert isinstance(request.prompt, ChatPrompt)
    prompts = (request.prompt, request.prompt.messages[0])
    params = (request.params, request.params.sampling, request.params.tools)
    for part in (request, *prompts, *params, request.params.constraint):
        with pytest.raises(FrozenInstanceError):
            setattr(part, fields(part)[0].name, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "prompt"),
    [
        ({"prompt": "a"}, TextPrompt("a")),
        ({"prompt": [1, 2]}, TokenPrompt((1, 2))),
        ({"text": "a"}, TextPrompt("a")),
        ({"prefix": "a", "suffix": None}, FillPrompt("a")),
    ],
)
def test_a_prompt_has_the_type_of_its_kind(params: dict[str, Any], prompt: Prompt) -> None:
    assert parse_prompt(params) == prompt


def test_a_tool_call_of_an_unknown_form_is_refused_by_name() -> None:
    messages: list[Any] = [
        {"role": "assistant", "content": None, "tool_calls": [{"arguments": {}}]}
    ]
    with pytest.raises(InvalidParams, match="tool_calls") as refusal:
        parse_prompt({"messages": messages})
    assert refusal.value.data["param"] == "messages.tool_calls"


@pytest.mark.parametrize("choice", ["auto", "none", "required", "look"])
def test_required_and_named_tool_choices_force_a_tool(choice: str) -> None:
    given = validate("chat", {"messages": MESSAGES, "tools": [TOOL], "tool_choice": choice})
    forced = GenerationParams.from_map(given).tools.forced
    assert bool(forced) == (choice in ("required", "look"))
