"""A sequence whose computation fails ends only its own request.

The engine loads a model with code of its own, which fails for a poisoned token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.engine_process import EngineProcess, running_engine
from support.model_folders import copy_of_pocket

POISON = 300
NEVER = {str(POISON): -100.0}
ALWAYS = {str(POISON): 100.0}
CODE = """
import mlx.core as mx
from mlx_lm.models.qwen3 import Model as Qwen3, ModelArgs

class Model(Qwen3):
    def __call__(self, inputs, cache=None, **kwargs):
        if (inputs == 300).any().item():
            raise ValueError("a poisoned token")
        return super().__call__(inputs, cache=cache, **kwargs)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models") / "poisoned"
    ref = copy_of_pocket(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "poisoned.py"}))
    (folder / "poisoned.py").write_text(CODE)
    return {**ref, "trust_remote_code": True}


QUESTIONS: list[dict[str, Any]] = [
    {"temperature": 0.9, "seed": 1},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 0.5, "seed": 3, "regex": "[a-z ]{40,60}"},
    {"temperature": 0.8, "seed": 4, "n": 2, "logprobs": 1},
]


def ask(engine: EngineProcess, model: dict[str, Any], conn: int, **options: Any) -> int:
    prompt = [{"role": "user", "content": f"Tell me a story about a fox and {conn} owls."}]
    return engine.submit(
        "chat",
        messages=prompt,
        model=model,
        conn=conn,
        max_tokens=30,
        ignore_eos=True,
        **{"logit_bias": NEVER, **options},
    )


def without_timing(result: dict[str, Any]) -> Any:
    return [
        {key: value for key, value in choice.items() if key != "logprobs"}
        for choice in result["choices"]
    ]


def test_a_token_that_a_model_fails_on_ends_one_request_of_a_batch(
    engine: EngineProcess, model: dict[str, Any]
) -> None:
    alone = [
        engine.result(ask(engine, model, conn, **options)) for conn, options in enumerate(QUESTIONS)
    ]
    others = [ask(engine, model, conn, **options) for conn, options in enumerate(QUESTIONS)]
    # Its first token is the poisoned one, which the next step feeds together with the others.
    culprit = ask(engine, model, 9, logit_bias=ALWAYS, temperature=0.0)
    assert "a poisoned token" in engine.result(culprit)["error"]["message"]
    results = [engine.result(one) for one in others]
    assert [without_timing(one) for one in results] == [without_timing(one) for one in alone]


def test_a_prompt_that_a_model_fails_on_ends_its_own_request(
    engine: EngineProcess, model: dict[str, Any]
) -> None:
    def generate(tokens: list[int], conn: int) -> int:
        return engine.submit(
            "generate",
            prompt=tokens,
            model=model,
            conn=conn,
            max_tokens=8,
            ignore_eos=True,
            logit_bias=NEVER,
        )

    prompts = [[5, 6, 7, 8 + conn] for conn in range(3)]
    alone = [engine.result(generate(tokens, 0))["choices"] for tokens in prompts]
    running = ask(engine, model, 8, temperature=0.0)
    ids = [generate(tokens, conn) for conn, tokens in enumerate(prompts)]
    culprit = generate([5, POISON, 7, 8], 9)
    assert "error" in engine.result(culprit)
    assert [engine.result(one)["choices"] for one in ids] == alone
    assert "choices" in engine.result(running)
