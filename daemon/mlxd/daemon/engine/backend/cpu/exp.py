"""Exponentials on the CPU: those in attention's softmax, and those in swiglu.

MLX's CPU backend computes them one by one on x86, 15 ns each: four fifths of the time that
attention takes, and most of what is left of a long prompt's. The forms here take a third of that
with operations that the compiler turns into vector instructions. What is too small to gain is left
to MLX. `docs/decisions/006-exponentials.md` has the figures.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models import activations

from mlxd.daemon.engine.backend.cpu.compiling import kernel

ATTENTION_FROM = 1 << 13
"""Scores from which the form here is faster than MLX's."""
SWIGLU_FROM = 1 << 12
BLOCK_SCORES = 1 << 19
"""Scores that are computed at a time: what fits into a processor's cache is not fetched again."""
LOG2_E = 1 / math.log(2)
EXPONENT_MAX = 126.0
"""Powers of two from -126 to 126 are ordinary numbers in float32."""
POWER = (
    1.0, 6.931472028550421e-1, 2.402264791363012e-1, 5.550332471162809e-2,
    9.618437357674640e-3, 1.339887440266574e-3, 1.535336188319500e-4,
)  # fmt: skip
"""2^x for -0.5 <= x <= 0.5, to 2e-7 of its value: a polynomial of S. Moshier's Cephes library."""
ROUNDER = 1.5 * 2.0**23
"""Added and taken away again, it leaves a whole number: float32 has no digits for the rest."""

_attention = mx.fast.scaled_dot_product_attention
_swiglu = activations.swiglu


def install() -> None:
    """Use the forms of this module, also in models that are loaded already."""
    mx.fast.scaled_dot_product_attention = attention  # type: ignore[assignment]
    for name, module in list(sys.modules.items()):
        # The one that has it, and those of models, which keep what they imported.
        if name.startswith("mlx_lm.models.") and getattr(module, "swiglu", None) is _swiglu:
            module.__dict__["swiglu"] = swiglu


def build() -> None:
    """Have MLX compile what the forms here consist of."""
    numbers = mx.ones((2, 2))
    halves = mx.split(mx.ones((2, 4)), 2, axis=-1)  # as models have them that compute both at once
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
    """Return the values (batch, heads, length, dims) that queries find among `k` and `v`.

    As `mx.fast.scaled_dot_product_attention`: `k` and `v` are (batch, groups, known, dims), and
    `mask` is "causal", truth values that broadcast to (batch, heads, length, known), or None.
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
    """Return which scores of these rows count, (batch, heads, rows, seen) or broadcast to it."""
    if mask is None:
        return None
    if isinstance(mask, str):
        return _causal(stop - start, seen)
    return mask if mask.shape[-2] == 1 else mask[..., start:stop, :]


@functools.lru_cache(maxsize=4)
def _causal(rows: int, seen: int) -> mx.array:
    return mx.arange(seen - rows, seen)[:, None] >= mx.arange(seen)


def _attend(q: mx.array, k: mx.array, v: mx.array, allowed: mx.array | None) -> mx.array:
    """Return the values for some queries (batch, groups, shares, rows, dims)."""
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
    """Return two to the power of the scores (rows, columns), each row's largest made 1."""
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
    """Return two factors of two to the power of `exponents`, the second as the bits of a float32.

    They are not multiplied here since a look at bits as another type is nothing that
    `mx.compile` can be told without shapes.
    """
    whole = (exponents + ROUNDER) - ROUNDER
    rest = exponents - whole
    power: Any = POWER[-1]
    for factor in POWER[-2::-1]:
        power = power * rest + factor
    return power, ((whole + 127.0) * 2.0**23).astype(mx.int32)
