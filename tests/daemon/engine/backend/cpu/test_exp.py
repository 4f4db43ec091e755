"""The functions with faster exponentials compute the same as MLX's own."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations, qwen3
from mlx_lm.models.cache import make_prompt_cache

from mlxd.daemon.engine.backend.cpu import exp


def same(mine: mx.array, theirs: mx.array, tolerance: float = 5e-6) -> bool:
    equal = mine.dtype == theirs.dtype and mine.shape == theirs.shape
    return equal and bool(mx.allclose(mine, theirs, rtol=tolerance, atol=tolerance).item())


def random_mask(shape: tuple[int, ...]) -> mx.array:
    """Return a random boolean mask with at least one true value in every row."""
    return (mx.random.uniform(shape=shape) < 0.7) | (mx.arange(shape[-1]) == 1)


MASKS: dict[str, Any] = {
    "none": None,
    "causal": "causal",
    "of all heads": random_mask((2, 1, 40, 300)),
    "of every head": random_mask((2, 4, 40, 300)),
    "of all rows": random_mask((2, 1, 1, 300)),
    "of all": random_mask((40, 300)),
}


@pytest.mark.parametrize("block", [1, 8 * 300 * 7, 1 << 19])
@pytest.mark.parametrize("mask", MASKS)
def test_fast_attention_equals_mlx_attention(
    mask: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exp, "BLOCK_SCORES", block)
    q = mx.random.normal((2, 4, 40, 16))
    k, v = mx.random.normal((2, 2, 300, 16)), mx.random.normal((2, 2, 300, 24))
    given: dict[str, Any] = {"scale": 0.6, "mask": MASKS[mask]}
    assert same(exp.attention(q, k, v, **given), exp._attention(q, k, v, **given))


def test_extreme_scores_and_fully_masked_rows_equal_mlx() -> None:
    q, k = 40 * mx.random.normal((1, 1, 64, 16)), mx.random.normal((1, 1, 300, 16))
    mask = mx.broadcast_to(mx.arange(64)[:, None] > 0, (64, 300))
    mine = exp.attention(q, k, k, scale=1.0, mask=mask)
    # A rounding error in a score becomes a relative error of the same size in its exponential.
    largest = np.abs(np.array(q @ k.swapaxes(-1, -2))).max()
    rounding = float(q.shape[-1] * np.finfo(np.float32).eps * largest)
    assert same(mine, exp._attention(q, k, k, scale=1.0, mask=mask), tolerance=rounding)


@pytest.mark.parametrize(
    "given", [{"dtype": mx.float16}, {"mask": mx.zeros((64, 300))}, {"sinks": mx.zeros((4,))}]
)
def test_unsupported_attention_arguments_are_passed_to_mlx(given: dict[str, Any]) -> None:
    dtype = given.pop("dtype", mx.float32)
    q = mx.random.normal((1, 4, 64, 16)).astype(dtype)
    k = mx.random.normal((1, 4, 300, 16)).astype(dtype)
    mine = exp.attention(q, k, k, scale=0.25, **given)
    assert mx.array_equal(mine, exp._attention(q, k, k, scale=0.25, **given))


def test_fast_swiglu_equals_mlx_swiglu() -> None:
    gate = mx.concatenate([mx.linspace(-200, 200, 5000), mx.random.normal((3000,))])[None]
    x = mx.random.normal(gate.shape)
    assert same(exp.swiglu(gate, x), exp._swiglu(gate, x))
    few = gate[:, :8]
    assert mx.array_equal(exp.swiglu(few, few), exp._swiglu(few, few))


def test_softmax_weights_are_accurate_to_float32() -> None:
    exponents = -mx.random.uniform(0, 30, (4, 20_000))
    exponents[:, 0] = 0.0
    found = np.array(exp._softmax_weights(exponents)).astype(np.float64)
    true = np.exp2(np.array(exponents).astype(np.float64))
    assert np.max(np.abs(found / true - 1)) < 3e-7


def test_install_replaces_the_functions_in_loaded_models_too(
    restore_exponentials: None, tiny_model: Any
) -> None:
    tokens = mx.random.randint(0, 96, (1, 700))
    theirs = tiny_model(tokens)
    mx.eval(theirs)
    exp.install()
    assert qwen3.swiglu is activations.swiglu is exp.swiglu
    assert mx.fast.scaled_dot_product_attention is exp.attention
    cache = make_prompt_cache(tiny_model)
    mine = [tiny_model(tokens[:, :400], cache), tiny_model(tokens[:, 400:], cache)]
    assert mx.allclose(mx.concatenate(mine, 1), theirs, rtol=1e-4, atol=1e-5)
