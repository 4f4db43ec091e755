"""Determines the length of a prefill chunk from the wait of other requests, and how long a first
prompt waits for others that arrive with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CHUNK_MIN_TOKENS = 64
CHUNK_MIN_TOKENS_WHILE_DECODING = 16
"""On a CPU that other processes use, 64 tokens of a small model may take seconds. A quarter of them
takes about a quarter of the time."""
CHUNK_STEP_TOKENS = 32
CHUNK_MAX_TOKENS = 2048  # mlx-lm's own prefill_step_size
CHUNK_FIRST_TOKENS = 256  # until speeds are measured
GAP_WHILE_DECODING_S = 0.06
"""Longest wait of a running stream for one chunk: too short for a reader to notice."""
GAP_STEPS = 3
"""Or the wait in decoding steps, if those take long. The stream keeps a quarter of its speed."""
SLOWEST_OPS_PER_S = 3e9
"""Speed of matrix products on a CPU with the slowest BLAS, assumed until speeds are measured."""
OPS_PER_WEIGHT_BYTE = 4
"""Operations per byte of weights and token: a multiplication and an addition for each weight, which
has at least four bits."""
GAP_ALONE_S = 0.35
"""Longest wait of a new request of a higher class, or of a cancel, for one chunk."""
ITERATION_DECAY = 0.98
"""Factor by which the longest recent iteration time decays with each iteration."""
SMOOTHING = 0.3
GROWTH = 2
"""A chunk is at most this many times as long as the longest before it, because the speed of longer
chunks is unknown."""
SPAN_TOKENS = 1024
"""Chunks that begin within the same span of a prompt are assumed to have the same speed."""
TOKENIZING_WAIT_S = 0.02
"""Longest wait for requests that are being tokenized, in seconds."""
BURST_WINDOW_S = 0.006
"""Requests that are sent together reach the engine within this time."""


@dataclass(slots=True)
class PrefillPacer:
    """Learns a model's prefill speed and turns a time limit into a number of tokens."""

    tokens_per_s: float = 0.0
    step_s: float = 0.0
    chunk_step_tokens: int = CHUNK_STEP_TOKENS
    """Chunks are multiples of it."""
    _deeper: dict[int, float] = field(default_factory=dict)
    """Tokens per second of the chunks that began in each span of a prompt."""
    _longest_tokens: int = CHUNK_FIRST_TOKENS
    _short_tokens_per_s: float = 0.0
    """The best speed of short chunks, which do not show the speed of longer ones."""
    _iteration_s: float = 0.0
    """The longest recent iteration of the loop, in seconds, decaying."""

    def observe_iteration(self, seconds: float) -> None:
        """Record the duration of a whole iteration of the loop."""
        self._iteration_s = max(seconds, ITERATION_DECAY * self._iteration_s)

    def expected_s(self, prompt_tokens: int, weights_bytes: int) -> float:
        """Return the expected time of an iteration with this number of prompt tokens."""
        speed = self.tokens_per_s or self._short_tokens_per_s
        if not speed:
            ops = OPS_PER_WEIGHT_BYTE * weights_bytes * max(1, prompt_tokens)
            return max(self._iteration_s, ops / SLOWEST_OPS_PER_S)
        return max(self._iteration_s, self.step_s + prompt_tokens / speed)

    def observe_step(self, seconds: float) -> None:
        """Record the duration of a decoding step."""
        self.step_s = _smooth(self.step_s, seconds)

    def observe(self, tokens: int, seconds: float, behind: int = 0) -> None:
        """Record the duration of a chunk that followed `behind` tokens of its prompt.

        Short ones are slower per token. They only show that the speed is higher than assumed.
        """
        if seconds <= 0:
            return
        # A long prompt becomes slower with each chunk, because every token attends to all before
        # it.
        speed, span = tokens / seconds, behind // SPAN_TOKENS
        if tokens < CHUNK_MIN_TOKENS:
            self._short_tokens_per_s = max(self._short_tokens_per_s, speed)
            if 0 < self.tokens_per_s < speed:
                self.tokens_per_s = _smooth(self.tokens_per_s, speed)
            if 0 < self._deeper.get(span, 0.0) < speed:
                self._deeper[span] = _smooth(self._deeper[span], speed)
            return
        self.tokens_per_s = _cautious(self.tokens_per_s, speed)
        self._deeper[span] = _cautious(self._deeper.get(span, 0.0), speed)
        self._longest_tokens = max(self._longest_tokens, tokens)

    def chunk_tokens(self, *, decoding: bool, behind: int = 0) -> int:
        """Return the length of the next chunk, a multiple of `chunk_step_tokens`.

        The chunk follows `behind` tokens of the prompt, where chunks of other prompts may have been
        slower than the last one was. Multiples keep the number of different array shapes small,
        because kernels are compiled for each shape.
        """
        if not self.tokens_per_s:
            # Where a step is slow, so is a chunk.
            slow = decoding and GAP_STEPS * self.step_s > GAP_ALONE_S
            return self._at_least(CHUNK_MIN_TOKENS) if slow else CHUNK_FIRST_TOKENS
        gap_s = GAP_ALONE_S
        if decoding:
            gap_s = min(max(GAP_WHILE_DECODING_S, GAP_STEPS * self.step_s), GAP_ALONE_S)
        speed = min(self.tokens_per_s, self._deeper.get(behind // SPAN_TOKENS, math.inf))
        step = self.chunk_step_tokens
        most = min(CHUNK_MAX_TOKENS, GROWTH * self._longest_tokens)
        tokens = min(most, int(speed * gap_s)) // step * step
        least = CHUNK_MIN_TOKENS_WHILE_DECODING if decoding else CHUNK_MIN_TOKENS
        return max(self._at_least(least), tokens)

    def _at_least(self, tokens: int) -> int:
        """Return the shortest chunk: of so many tokens, but whole steps where those are large."""
        step = self.chunk_step_tokens
        return tokens if step <= CHUNK_STEP_TOKENS else max(tokens, step)


@dataclass(slots=True)
class Arrivals:
    """Whether requests arrive one by one or in bursts. Times are seconds of the monotonic clock."""

    _first_s: float = -1.0
    _came_alone: bool = True
    _expects_more: bool = False

    def came(self, now_s: float, *, alone: bool) -> None:
        """Record the arrival of a request. `alone`: the engine had no other request."""
        if alone:
            self._expects_more = not self._came_alone
            self._first_s, self._came_alone = now_s, True
        elif now_s - self._first_s < BURST_WINDOW_S:
            self._came_alone = False

    def wait_until_s(self, tokenizing_since_s: list[float]) -> float:
        """Return the time until which the first prompt waits for others.

        It waits for requests that are being tokenized (`tokenizing_since_s` has their times of
        arrival) and, if the last requests arrived in a burst, for the rest of this burst.
        """
        until_s = max(tokenizing_since_s, default=-TOKENIZING_WAIT_S) + TOKENIZING_WAIT_S
        if self._expects_more:
            until_s = max(until_s, self._first_s + BURST_WINDOW_S)
        return until_s


def _cautious(before: float, new: float) -> float:
    """Adopt a slower speed at once, a faster one slowly."""
    return new if new < before else _smooth(before, new)


def _smooth(before: float, new: float) -> float:
    return SMOOTHING * new + (1 - SMOOTHING) * before if before else new
