"""Token ids that the model does not have are refused, whatever its tokenizer contains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from support.engine_process import POCKET, EngineProcess, running_engine
from support.model_folders import copy_of_pocket

HI = [{"role": "user", "content": "hi"}]
COUNT = "Count from 3 to 7."


def with_rows(folder: Path, rows: int, *, stated: bool = True) -> dict[str, Any]:
    """Copy pocket with another number of embedding rows than its tokenizer has tokens."""
    ref = copy_of_pocket(folder)
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    for name in [
        name for name in weights if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    ]:
        array = weights[name]
        more = mx.zeros((max(0, rows - array.shape[0]), array.shape[1]), dtype=array.dtype)
        weights[name] = mx.concatenate([array[:rows], more])
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = rows
    if not stated:
        del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    return ref


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        yield running


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_rows(tmp_path_factory.mktemp("models") / "wide", 640)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_rows(tmp_path_factory.mktemp("models") / "narrow", 300)


@pytest.mark.parametrize("token", [512, 99_999, 2**31 - 1])
def test_a_logit_bias_outside_the_vocabulary_is_refused(engine: EngineProcess, token: int) -> None:
    neighbour = engine.submit(messages=[{"role": "user", "content": COUNT}])
    error = engine.ask("hi", logit_bias={str(token): 1})["error"]
    assert (error["code"], error["data"]["param"]) == ("invalid_params", "logit_bias")
    assert engine.result(neighbour)["choices"][0]["text"] == "3, 4, 5, 6, 7"


@pytest.mark.parametrize("method", ["generate", "prefill"])
def test_prompt_tokens_outside_the_vocabulary_are_refused(
    engine: EngineProcess, method: str
) -> None:
    error = engine.result(engine.submit(method, prompt=[1, 512]))["error"]
    assert (error["code"], error["data"]["param"]) == ("invalid_params", "prompt")


def test_token_ids_are_checked_against_a_model_wider_than_its_tokenizer(
    engine: EngineProcess, wide: Any
) -> None:
    # The model's padding tokens after those of the tokenizer are valid, and have no text.
    padding = engine.ask("hi", model=wide, logit_bias={"600": 100}, max_tokens=4)
    assert padding["choices"][0]["text"] == ""
    assert padding["usage"]["completion_tokens"] == 4
    assert engine.ask("hi", model=wide, logit_bias={"640": 1})["error"]["code"] == "invalid_params"
    assert engine.call("detokenize", model=wide, tokens=[639])["text"] == ""
    refused = engine.call("detokenize", model=wide, tokens=[640])["error"]
    assert refused["data"]["param"] == "tokens"


def test_token_ids_are_checked_against_a_model_narrower_than_its_tokenizer(
    engine: EngineProcess, narrow: Any
) -> None:
    tokens = engine.call("tokenize", model=narrow, text="The story of a turtle.")["tokens"]
    assert max(tokens) >= 300
    for prompt in (tokens, "The story of a turtle."):
        error = engine.result(engine.submit("generate", model=narrow, prompt=prompt))["error"]
        assert (error["code"], error["data"]["param"]) == ("invalid_params", "prompt")
    error = engine.ask("hi", model=narrow, logit_bias={"300": 1})["error"]
    assert error["data"]["param"] == "logit_bias"


def test_a_draft_with_another_vocabulary_size_proposes_only_shared_tokens(
    engine: EngineProcess, wide: Any
) -> None:
    narrower = {"draft": wide["path"], "draft_name": "wide"}
    pocket = {"name": "pocket", "path": str(POCKET), **narrower}
    answer = engine.ask(COUNT, model=pocket, temperature=5, top_p=1, seed=1, max_tokens=60)
    assert answer["applied"]["draft"]["proposed"] > 0
    prompt = [1, 600]
    refused = engine.submit(
        "generate", model={**wide, "draft": str(POCKET), "draft_name": "pocket"}, prompt=prompt
    )
    notes = engine.result(refused)["applied"]["notes"]
    assert any("lacks a token" in note for note in notes)


def test_the_vocabulary_size_is_read_from_weights_if_not_configured(tmp_path: Path) -> None:
    ref = with_rows(tmp_path / "silent", 640, stated=False)
    tokenizer = Tokenizer(ModelRef("silent", ref["path"]), compile_pool())
    assert tokenizer.model_tokens == 640
