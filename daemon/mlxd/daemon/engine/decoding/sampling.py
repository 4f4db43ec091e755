"""Samples for a whole batch at once. Each row has its own settings and random key.

The filters are those of `mlx_lm.sample_utils`, with one threshold per row. Randomness is the
Gumbel-max trick with noise from the key (row seed, step). A row's noise depends only on its own
seed and step, so the same request gets the same text alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

GREEDY_BELOW = 1e-5  # as in vLLM; a smaller divisor takes logits out of float32's range
_GOLDEN_64 = 0x9E3779B97F4A7C15  # increment of SplitMix64 (Steele, Lea, Flood 2014)


@dataclass(frozen=True, slots=True)
class SequenceSampling:
    """The sampling of one sequence: a request's `SamplingParams`, a seed, and special tokens of the
    model."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_tokens_to_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_exempt: tuple[int, ...] = ()
    seed: int = 0


def choice_seed(seed: int, index: int) -> int:
    """Return the seed of choice number `index`. The first choice has the request's own seed."""
    if index == 0:
        return seed
    mixed = (seed + index * _GOLDEN_64) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return mixed ^ (mixed >> 31)


def _key(seed: int, step: int) -> tuple[int, int]:
    mixed = choice_seed(seed & (2**64 - 1), step + 1)
    return mixed >> 32, mixed & 0xFFFFFFFF


class BatchSampler:
    """The settings of all rows as arrays. Make a new one whenever the rows change."""

    def __init__(self, rows: Sequence[SequenceSampling]) -> None:
        self._rows = tuple(rows)
        self._seeds = [row.seed for row in rows]
        self._greedy = [row.temperature < GREEDY_BELOW for row in rows]
        self._random = not all(self._greedy)
        if not self._random:
            return
        column = self._column
        self._temperature = column([max(row.temperature, GREEDY_BELOW) for row in rows])
        self._is_greedy = mx.array(self._greedy)
        self._top_p = column([row.top_p if row.top_p < 1 else 2.0 for row in rows])
        self._use_top_p = any(r.top_p < 1 and r.temperature >= GREEDY_BELOW for r in rows)
        self._use_min_p = any(row.min_p > 0 for row in rows)
        self._use_top_k = any(row.top_k > 0 for row in rows)
        self._use_xtc = any(row.xtc_probability > 0 for row in rows)
        self._noise = mx.vmap(lambda key: mx.random.gumbel((self._width,), key=key))
        self._chance = mx.vmap(lambda key: mx.random.uniform(key=key, shape=(1,)))
        self._width = 0

    @property
    def greedy(self) -> bool:
        """Whether every row takes its most likely token. Then unnormalised logits are enough."""
        return not self._random

    @staticmethod
    def _column(values: Sequence[float]) -> mx.array:
        return mx.array(np.asarray(values, dtype=np.float32)[:, None])

    def __call__(self, logprobs: mx.array, steps: Sequence[int]) -> mx.array:
        """Return one token per row, shape (rows,), uint32.

        `logprobs` has shape (rows, vocabulary). `steps` has the number of samples that each row
        took before.
        """
        best = mx.argmax(logprobs, axis=-1)
        if not self._random:
            return best
        filtered = self._filter(logprobs, steps)
        scaled = filtered.astype(mx.float32) / self._temperature
        self._width = logprobs.shape[-1]
        keys = self._keys(steps, salt=0)
        sampled = mx.argmax(scaled + self._noise(keys), axis=-1)
        if any(self._greedy):
            sampled = mx.where(self._is_greedy, best, sampled)
        return sampled

    def _keys(self, steps: Sequence[int], salt: int) -> mx.array:
        keys = [_key(seed ^ salt, step) for seed, step in zip(self._seeds, steps, strict=True)]
        return mx.array(np.asarray(keys, dtype=np.uint32))

    def _filter(self, logprobs: mx.array, steps: Sequence[int]) -> mx.array:
        if self._use_top_p:
            logprobs = _top_p(logprobs, self._top_p)
        if self._use_min_p:
            logprobs = self._min_p(logprobs)
        if self._use_xtc:
            logprobs = self._xtc(logprobs, steps)
        if self._use_top_k:
            logprobs = self._top_k(logprobs)
        return logprobs

    def _min_p(self, logprobs: mx.array) -> mx.array:
        # log 0 is not finite. A row without min_p gets a threshold that keeps every token.
        shares = [np.log(row.min_p) if row.min_p > 0 else -1e30 for row in self._rows]
        threshold = mx.max(logprobs, axis=-1, keepdims=True) + self._column(shares)
        keep = [row.min_tokens_to_keep for row in self._rows]
        if max(keep) > 1:
            threshold = mx.minimum(threshold, self._kth_largest(logprobs, keep))
        return mx.where(logprobs < threshold, -mx.inf, logprobs)

    def _top_k(self, logprobs: mx.array) -> mx.array:
        width = logprobs.shape[-1]
        counts = [row.top_k if 0 < row.top_k < width else width for row in self._rows]
        return mx.where(logprobs < self._kth_largest(logprobs, counts), -mx.inf, logprobs)

    @staticmethod
    def _kth_largest(logprobs: mx.array, counts: Sequence[int]) -> mx.array:
        """Return each row's k-th largest value, shape (rows, 1)."""
        width = logprobs.shape[-1]
        position = mx.array([[width - min(count, width)] for count in counts])
        return mx.take_along_axis(mx.sort(logprobs, axis=-1), position, axis=-1)

    def _xtc(self, logprobs: mx.array, steps: Sequence[int]) -> mx.array:
        """Exclude the top tokens, except the last one above the threshold, with some
        probability."""
        probs = mx.softmax(logprobs, axis=-1)
        threshold = self._column([row.xtc_threshold for row in self._rows])
        above = mx.where(probs > threshold, probs, mx.inf)
        mask = probs > above.min(axis=-1, keepdims=True)
        if exempt := sorted({token for row in self._rows for token in row.xtc_exempt}):
            mask[..., mx.array(exempt)] = False
        chance = self._chance(self._keys(steps, salt=_GOLDEN_64))
        happens = chance <= self._column([row.xtc_probability or -1.0 for row in self._rows])
        return mx.where(mx.logical_and(mask, happens), -mx.inf, logprobs)


def _top_p(logprobs: mx.array, top_p: mx.array) -> mx.array:
    """Keep the smallest set of tokens whose total probability reaches `top_p`, shape (rows, 1)."""
    ordered = mx.sort(logprobs, axis=-1)
    probs = mx.exp(ordered.astype(mx.float32))
    above = mx.cumsum(probs, axis=-1, reverse=True, inclusive=False)
    total = above[..., :1] + probs[..., :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    # Always keep the most likely token, even if `top_p` is 0.
    dropped = mx.minimum(dropped, logprobs.shape[-1] - 1)
    threshold = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs < threshold, -mx.inf, logprobs)


def describe_logprobs(logprobs: mx.array, sampled: mx.array, alternatives: int) -> tuple[Any, ...]:
    """Return lazy arrays (chosen (rows,), top ids (rows, k), top values (rows, k)).

    The last two are None if no alternatives are requested.
    """
    chosen = mx.take_along_axis(logprobs, sampled[:, None].astype(mx.int32), axis=-1)[:, 0]
    if alternatives <= 0:
        return chosen, None, None
    order = mx.argsort(-logprobs, axis=-1)[:, :alternatives]
    return chosen, order, mx.take_along_axis(logprobs, order, axis=-1)
