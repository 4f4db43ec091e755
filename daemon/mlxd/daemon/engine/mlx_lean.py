"""Rotary positions in fewer pieces, for the CPU backend of MLX.

Metal and CUDA have a kernel of their own for `mx.fast.rope`. The CPU backend puts it together from
25 operations per call, two calls per layer, each of which is scheduled, allocated and handed to a
thread, though the cosines and sines are the same for all layers. `install` puts a form in its place
that gives the same numbers and computes them once;
`docs/decisions/003-rotary-positions-once.md` has the figures.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import mlx.core as mx

_rope = mx.fast.rope


def install() -> None:
    """Use the lean form from now on, in all models of this process."""
    mx.fast.rope = rope


def rope(
    a: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Return `a` (batch, heads, length, dims) with rotary positions, as `mx.fast.rope` does."""
    if traditional or a.ndim != 4 or dims != a.shape[-1] or stream is not None:
        return _rope(
            a, dims, traditional=traditional, base=base, scale=scale, offset=offset,
            freqs=freqs, stream=stream,
        )  # fmt: skip
    cosines, sines = _waves(a, dims, base, scale, offset, freqs)
    first, second = mx.split(a, 2, axis=-1)
    return a * cosines + mx.concatenate([second, first], axis=-1) * sines


class _Waves:
    """The cosines and sines that were used last: the other layers of a step want the same."""

    def __init__(self) -> None:
        self.numbers: tuple[Any, ...] = ()
        self.offset: int | mx.array = 0
        self.freqs: mx.array | None = None
        self.arrays: tuple[mx.array, mx.array] | None = None

    def fit(self, numbers: tuple[Any, ...], offset: int | mx.array, freqs: Any) -> bool:
        """Whether they are the ones for this call. Looking into arrays would compute them."""
        if self.numbers != numbers or self.freqs is not freqs:
            return False
        return self.offset is offset or (
            isinstance(offset, int) and isinstance(self.offset, int) and self.offset == offset
        )


_last = _Waves()


def _waves(
    a: mx.array, dims: int, base: float | None, scale: float, offset: int | mx.array, freqs: Any
) -> tuple[mx.array, mx.array]:
    """Return cosines, and sines with the sign that they have in each half, of (length, dims)."""
    length, dtype = a.shape[2], a.dtype
    numbers = (length, dims, base, scale, dtype)
    if _last.arrays is None or not _last.fit(numbers, offset, freqs):
        positions = mx.arange(length, dtype=mx.float32) + _column(offset)
        if scale != 1.0:
            positions = positions * scale
        theta = mx.expand_dims(positions, -1) * _speeds(dims, base, freqs)
        sines = mx.sin(theta).astype(dtype) * _signs(dims).astype(dtype)
        _last.numbers, _last.offset, _last.freqs = numbers, offset, freqs
        _last.arrays = (mx.cos(theta).astype(dtype), sines)
    return _last.arrays


def _column(offset: int | mx.array) -> int | mx.array:
    if isinstance(offset, mx.array) and offset.size > 1:
        return mx.expand_dims(offset, (-1, -2))
    return offset


def _speeds(dims: int, base: float | None, freqs: mx.array | None) -> mx.array:
    if freqs is not None:
        half = mx.reciprocal(freqs)
        return mx.concatenate([half, half])
    assert base is not None, "either a base or frequencies"
    return _speeds_of_base(dims, base)


@functools.lru_cache(maxsize=64)
def _speeds_of_base(dims: int, base: float) -> mx.array:
    half = dims // 2
    steps = mx.arange(0, -half, -1, dtype=mx.float32)
    speeds = mx.exp(steps * mx.array(math.log(base) / half, mx.float32))
    return mx.concatenate([speeds, speeds])


@functools.lru_cache(maxsize=64)
def _signs(dims: int) -> mx.array:
    half = dims // 2
    return mx.concatenate([mx.full((half,), -1.0), mx.full((half,), 1.0)])
