"""Attention and swiglu with vectorised exponentials, for MLX's CPU backend.

On x86 MLX's CPU backend computes exponentials one by one, 15 ns each. They take four fifths of the
time of attention, and most of the remaining time of a long prompt. The functions here take a third
of that, because they use operations that the compiler vectorises. Small arrays gain nothing and use
MLX's functions. `docs/decisions/006-exponentials.md` has the figures.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models import activations

from mlxd.daemon.engine.backend.cpu.compiling import kernel

ATTENTION_FROM = 1 << 13
"""Number of scores above which `attention` is faster than MLX's."""
SWIGLU_FROM = 1 << 12
BLOCK_SCORES = 1 << 19
"""Scores per block: as many as fit into a CPU's cache."""
LOG2_E = 1 / math.log(2)
EXPONENT_MAX = 126.0
"""Powers of two from -126 to 126 are normal numbers in float32."""
POWER = (
    1.0, 6.931472028550421e-1, 2.402264791363012e-1, 5.550332471162809e-2,
    9.618437357674640e-3, 1.339887440266574e-3, 1.535336188319500e-4,
)  # fmt: skip
"""Coefficients of 2^x for -0.5 <= x <= 0.5, relative error 2e-7, from S. Moshier's Cephes."""
ROUNDER = 1.5 * 2.0**23
"""Adding and subtracting it rounds to an integer, because float32 has no digits left for a
fraction."""

_attention = mx.fast.scaled_dot_product_attention
_swiglu = activations.swiglu


def install() -> None:
    """Replace MLX's functions, also in models that are already loaded."""
    mx.fast.scaled_dot_product_attention = attention  # type: ignore[assignment]
    _bind([module for module in _models() if getattr(module, "swiglu", None) is _swiglu], swiglu)


@contextlib.contextmanager
def original() -> Iterator[None]:
    """Use MLX's own functions during a `with` block."""
    replaced = mx.fast.scaled_dot_product_attention
    modules = [module for module in _models() if getattr(module, "swiglu", None) is swiglu]
    mx.fast.scaled_dot_product_attention = _attention
    _bind(modules, _swiglu)
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention = replaced
        _bind(modules, swiglu)


def _models() -> list[ModuleType]:
    """Return the defining module, and those of models that imported the function by name."""
    return [one for name, one in list(sys.modules.items()) if name.startswith("mlx_lm.models.")]


def _bind(modules: Iterable[ModuleType], function: Any) -> None:
    for module in modules:
        module.__dict__["swiglu"] = function


def build() -> None:
    """Make MLX compile all kernels of this module."""
    numbers = mx.ones((2, 2))
    halves = mx.split(mx.ones((2, 4)), 2, axis=-1)  # for models that compute both in one product
    mx.eval(_softmax_weights(numbers))
    for gate, x in ((numbers, numbers), halves):
        mx.eval(_gated(gate, x), _gated_few(gate, x))


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: str | mx.array | None = None,
    sinks: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Return attention of `q` over `k` and `v`, shape (batch, heads, length, dims).

    As `mx.fast.scaled_dot_product_attention`. `k` and `v` have the shape (batch, groups, known,
    dims). `mask` is "causal", booleans that broadcast to (batch, heads, length, known), or None.
    """
    if sinks is not None or stream is not None or not _is_worthwhile(q, k, v, mask):
        return _attention(q, k, v, scale=scale, mask=mask, sinks=sinks, stream=stream)
    batch, heads, length, dims = q.shape
    groups, known = k.shape[1:3]
    grouped = (q * (scale * LOG2_E)).reshape(batch, groups, heads // groups, length, dims)
    rows = max(1, BLOCK_SCORES // (batch * heads * known))
    blocks = []
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        seen = known - length + stop if isinstance(mask, str) else known
        allowed = _allowed(mask, start, stop, seen)
        blocks.append(
            _attend(grouped[:, :, :, start:stop], k[:, :, :seen], v[:, :, :seen], allowed)
        )
    return mx.concatenate(blocks, axis=3).reshape(batch, heads, length, v.shape[-1])


def _is_worthwhile(q: mx.array, k: mx.array, v: mx.array, mask: str | mx.array | None) -> bool:
    return (
        q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] >= ATTENTION_FROM
        and {q.dtype, k.dtype, v.dtype} == {mx.float32}
        and (mask is None or isinstance(mask, str) or mask.dtype == mx.bool_)
    )


def _allowed(mask: str | mx.array | None, start: int, stop: int, seen: int) -> mx.array | None:
    """Return the mask of these rows. It broadcasts to (batch, heads, rows, seen)."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return _causal(stop - start, seen)
    return mask if mask.shape[-2] == 1 else mask[..., start:stop, :]


@functools.lru_cache(maxsize=4)
def _causal(rows: int, seen: int) -> mx.array:
    return mx.arange(seen - rows, seen)[:, None] >= mx.arange(seen)


def _attend(q: mx.array, k: mx.array, v: mx.array, allowed: mx.array | None) -> mx.array:
    """Return attention of queries of shape (batch, groups, shares, rows, dims)."""
    *group, rows, dims = q.shape
    seen = k.shape[2]
    scores = q.reshape(*group[:2], -1, dims) @ k.swapaxes(-1, -2)
    if allowed is not None:
        by_head = scores.reshape(group[0], -1, rows, seen)
        scores = mx.where(allowed, by_head, mx.finfo(mx.float32).min)
    weights = _softmax_weights(scores.reshape(-1, seen))
    sums = weights @ mx.ones((seen, 1))  # a product is faster than a sum
    found = weights.reshape(*group[:2], -1, seen) @ v
    return (found / sums.reshape(*group[:2], -1, 1)).reshape(*group, rows, v.shape[-1])


def _softmax_weights(scores: mx.array) -> mx.array:
    """Return 2^(score - row maximum), shape (rows, columns)."""
    below = scores - mx.max(scores, axis=-1, keepdims=True)
    power, bits = _power_of_two_parts(mx.maximum(below, -EXPONENT_MAX))
    return power * bits.view(mx.float32)


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return `x` times the SiLU of `gate`, as `mlx_lm.models.activations.swiglu`."""
    if {gate.dtype, x.dtype} != {mx.float32}:
        return cast(mx.array, _swiglu(gate, x))
    return _gated_few(gate, x) if gate.size < SWIGLU_FROM else _gated(gate, x)


@kernel
def _gated_few(gate: mx.array, x: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * x


def _gated(gate: mx.array, x: mx.array) -> mx.array:
    exponents = mx.clip(gate * -LOG2_E, -EXPONENT_MAX, EXPONENT_MAX)
    power, bits = _power_of_two_parts(exponents)
    return _gated_by(gate, x, power, bits.view(mx.float32))


@kernel
def _gated_by(gate: mx.array, x: mx.array, power: mx.array, scale: mx.array) -> mx.array:
    return gate * x / (1.0 + power * scale)


@kernel
def _power_of_two_parts(exponents: mx.array) -> tuple[mx.array, mx.array]:
    """Return two factors of 2^exponents, the second as the bits of a float32.

    They are multiplied elsewhere, because `mx.compile` does not support `view` without shapes.
    """
    whole = (exponents + ROUNDER) - ROUNDER
    rest = exponents - whole
    power: Any = POWER[-1]
    for factor in POWER[-2::-1]:
        power = power * rest + factor
    return power, ((whole + 127.0) * 2.0**23).astype(mx.int32)
