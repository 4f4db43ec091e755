"""Prefills prompts for a decoding batch, one by one or several in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxd.daemon.engine.kvcache.ops import Cache, is_plain, keep_rows, merge, rows_of, share_offsets


class Prefill:
    """A prompt that is computed chunk by chunk, up to its last token.

    The last token is left for the first decoding step, as in mlx-lm.
    """

    def __init__(self, model: Any, tokens: list[int], cache: Cache | None = None, done: int = 0):
        assert done < len(tokens), "at least the last token remains to be fed"
        self.model = model
        self.tokens = tokens
        self.done = done
        self._cache = make_prompt_cache(model) if cache is None else cache
        self.joint: _Joint | None = None

    @property
    def left(self) -> int:
        return len(self.tokens) - 1 - self.done

    @property
    def cache(self) -> Cache:
        """Its KV cache, separate from those of other prompts."""
        self.part()
        return self._cache

    def part(self) -> None:
        """Separate its KV cache from the prompts that it shared a pass with."""
        if self.joint is not None:
            self._cache, self.joint = self.joint.row_of(self), None

    @property
    def joins(self) -> bool:
        """Whether it can share a pass with other prompts."""
        return self.joint is not None or is_plain(self._cache)

    def run(self, tokens: int) -> int:
        """Compute up to `tokens` more tokens and return their number."""
        count = min(tokens, self.left)
        if count > 0:
            chunk = mx.array(self.tokens[self.done : self.done + count])
            self.model(chunk[None], cache=self.cache)
            mx.eval([layer.state for layer in self.cache])
            self.done += count
        return count


class _Joint:
    """The batched cache of prompts that shared a pass, until they are separated."""

    def __init__(self, members: list[Prefill], cache: Cache) -> None:
        self._members = members
        self._cache = cache

    def row_of(self, member: Prefill) -> Cache:
        """Return the separate cache of a member."""
        return rows_of(self._cache, [self._members.index(member)])[0]

    def taken_by(self, prompts: Sequence[Prefill]) -> Cache:
        """Return the batched cache with the rows of these members only, in their order."""
        rows = [self._members.index(prompt) for prompt in prompts]
        for member in self._members:
            if member not in prompts:
                member.part()
        for prompt in prompts:
            prompt.joint = None  # otherwise both would refer to each other, and to the model
        if rows != list(range(len(self._members))):
            keep_rows(self._cache, rows)
        return self._cache


def run_together(model: Any, parts: Sequence[tuple[Prefill, int]]) -> None:
    """Compute the given number of tokens of each prompt, in one pass.

    A pass reads all weights, however few tokens it has. Eight short prompts take little longer than
    two.
    """
    longest = max(count for _, count in parts)
    spare = [longest - count for _, count in parts]
    rows = []
    for (prefill, count), padding in zip(parts, spare, strict=True):
        rows.append(prefill.tokens[prefill.done : prefill.done + count] + [0] * padding)
    cache = merge([prefill.cache for prefill, _ in parts])
    share_offsets(cache)
    for layer in cache:
        layer.prepare(lengths=[count for _, count in parts], right_padding=spare)
    model(mx.array(rows), cache=cache)
    for layer in cache:
        layer.finalize()
    mx.eval([layer.state for layer in cache])
    joint = _Joint([prefill for prefill, _ in parts], cache)
    for prefill, count in parts:
        prefill.done += count
        prefill.joint = joint


def joined(prompts: Sequence[Prefill]) -> Cache:
    """Return the cache in which these prompts decode together. A single prompt keeps its own."""
    if len(prompts) == 1:
        return prompts[0].cache
    joint = prompts[0].joint
    if joint is None or any(one.joint is not joint for one in prompts):
        return merge([one.cache for one in prompts])
    if len({id(one) for one in prompts}) < len(prompts):
        return merge([one.cache for one in prompts])  # several answers to one prompt
    return joint.taken_by(prompts)
