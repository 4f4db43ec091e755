"""Each private attribute of mlx-lm that the engine uses exists, with the meaning it relies on."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlxd.daemon.engine import mlx_lm_private
from mlxd.daemon.engine.models.mlx_lm_imports import load_tokenizer
from support.engine_process import POCKET


def tokenizer() -> None:
    wrapper = load_tokenizer(POCKET, trust_remote_code=False, eos_token_ids=[2])
    inner = mlx_lm_private.hf_tokenizer(wrapper)
    assert inner.encode("red", add_special_tokens=False) == wrapper.encode(
        "red", add_special_tokens=False
    )


def chat_template() -> None:
    wrapper = load_tokenizer(POCKET, trust_remote_code=False, eos_token_ids=[2])
    assert not mlx_lm_private.renders_chats_itself(wrapper)
    wrapper._chat_template = lambda *_args, **_more: ""
    assert mlx_lm_private.renders_chats_itself(wrapper)


def positions() -> None:
    layer = BatchKVCache([0, 0])
    layer.update_and_fetch(mx.zeros((2, 1, 5, 4)), mx.zeros((2, 1, 5, 4)))
    assert mlx_lm_private.batch_tokens(layer) == 5
    mlx_lm_private.drop_first_positions(layer, 2)
    assert mlx_lm_private.batch_tokens(layer) == 3


def base_class() -> None:
    assert mlx_lm_private.cache_class("KVCache") is KVCache
    with pytest.raises(TypeError):
        mlx_lm_private.cache_class("mx")
    with pytest.raises(AttributeError):
        mlx_lm_private.cache_class("NoSuchCache")


CHECKS: dict[str, Callable[[], None]] = {
    "_tokenizer": tokenizer,
    "_chat_template": chat_template,
    "_idx": positions,
    "_BaseCache": base_class,
}


@pytest.mark.parametrize("name", CHECKS)
def test_mlx_lm_has_the_private_attribute(name: str) -> None:
    CHECKS[name]()


def test_every_private_attribute_that_is_used_has_a_check() -> None:
    tree = ast.parse(Path(mlx_lm_private.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("_")} == CHECKS.keys()
