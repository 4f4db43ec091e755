"""OpenAI's completions: prompts, filling in the middle, and streams."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.http.dialects import openai_completions as completions
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import validate
from support.answers_of import choice, delta, result
from support.bridge import sse_data


def plan(prompt: Any = "once", **fields: Any) -> Any:
    body = {"model": "pocket", "prompt": prompt, **fields}
    found = completions.plan(body, completions.prompts_of(body)[0])
    validate(found.method, found.params)
    return found


def test_a_suffix_asks_to_fill() -> None:
    found = plan("a(", suffix=")")
    assert found.method == "fill"
    assert (found.params["prefix"], found.params["suffix"]) == ("a(", ")")
    assert plan("a(", suffix=None).method == plan("a(", suffix="").method == "generate"


@pytest.mark.parametrize(
    ("prompt", "count"), [("a", 1), ([1, 2], 1), (["a", "b"], 2), ([[1], [2], [3]], 3)]
)
def test_prompts_are_texts_or_token_ids_one_or_several(prompt: Any, count: int) -> None:
    assert len(completions.prompts_of({"prompt": prompt})) == count


@pytest.mark.parametrize("prompt", [None, [], 5, {}])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(InvalidParams):
        completions.prompts_of({"prompt": prompt})


def test_answers_to_several_prompts_are_numbered_through() -> None:
    body = {"prompt": ["a", "b"], "n": 2}
    plans = [completions.plan(body, one) for one in completions.prompts_of(body)]
    pair = result(choice("x"), choice("y", 1))
    found = completions.joined([pair, pair], plans)
    assert [one["index"] for one in found["choices"]] == [0, 1, 2, 3]
    assert found["usage"]["total_tokens"] == 36


def test_echo_puts_the_prompt_in_front() -> None:
    assert plan(echo=True).whole(result(choice(" upon")))["choices"][0]["text"] == "once upon"
    writer = plan(echo=True, stream=True).writer
    data = writer.event(delta(" upon")) + writer.event(delta(" a")) + writer.end(result(choice()))
    chunks = list(sse_data(data))
    assert "".join(one["choices"][0]["text"] for one in chunks[:-1]) == "once upon a"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_log_probabilities_of_completions_have_offsets() -> None:
    given = [
        {"token": 1, "text": "ab", "logprob": -1.0, "top": [{"text": "x", "logprob": -3.0}]},
        {"token": 2, "text": "c", "logprob": -2.0},
    ]
    found = completions.logprobs(given, 5)
    assert found == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"x": -3.0}, {}],
        "text_offset": [5, 7],
    }
