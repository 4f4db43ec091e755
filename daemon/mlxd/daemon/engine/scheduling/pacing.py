"""How long a prefill chunk may be, so that requests behind it do not wait long, and how long a
first prompt waits for others that arrive with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CHUNK_MIN_TOKENS = 64
CHUNK_MIN_TOKENS_WHILE_DECODING = 16
"""On a CPU that other processes use, 64 tokens of a small model may take seconds. A quarter of them
takes about a quarter of the time."""
CHUNK_STEP_TOKENS = 32
CHUNK_MAX_TOKENS = 2048  # mlx-lm's own prefill_step_size
CHUNK_FIRST_TOKENS = 256  # before anything was measured
GAP_WHILE_DECODING_S = 0.06
"""What a running stream may wait for one chunk: shorter than a reader notices."""
GAP_STEPS = 3
"""Or so many of its own steps, where those take long: it keeps a quarter of its pace."""
SLOWEST_OPS_PER_S = 3e9
"""Of matrix products, on the CPU with the slowest BLAS: what is expected before anything was
measured."""
OPS_PER_WEIGHT_BYTE = 4
"""And token: a multiplication and an addition for each weight, which has four bits at the least."""
GAP_ALONE_S = 0.35
"""What a newcomer of a higher class, or a cancel, may wait for one chunk."""
ITERATION_DECAY = 0.98
"""Factor by which the longest recent iteration time decays with each iteration."""
SMOOTHING = 0.3
GROWTH = 2
"""How much longer than all before it a chunk may be: what is longer may be slower per token."""
SPAN_TOKENS = 1024
"""Chunks that begin within so many tokens of a prompt are taken to be equally fast."""
TOKENIZING_WAIT_S = 0.02
"""Longest wait for requests that are being tokenized, in seconds."""
BURST_WINDOW_S = 0.006
"""Requests that are sent together reach the engine within so many seconds."""


@dataclass(slots=True)
class PrefillPacer:
    """Learns a model's prefill speed and turns a time limit into a number of tokens."""

    tokens_per_s: float = 0.0
    step_s: float = 0.0
    _deeper: dict[int, float] = field(default_factory=dict)
    """Tokens per second of chunks that began in each span of a prompt."""
    _longest_tokens: int = CHUNK_FIRST_TOKENS
    _short_tokens_per_s: float = 0.0
    """The best speed of chunks too short to tell how fast longer ones are."""
    _iteration_s: float = 0.0
    """The longest recent iteration of the loop, in seconds, decaying."""

    def observe_iteration(self, seconds: float) -> None:
        """Record how long a whole iteration of the loop took."""
        self._iteration_s = max(seconds, ITERATION_DECAY * self._iteration_s)

    def expected_s(self, prompt_tokens: int, weights_bytes: int) -> float:
        """Return the expected time of an iteration with so many prompt tokens, as measured."""
        speed = self.tokens_per_s or self._short_tokens_per_s
        if not speed:
            ops = OPS_PER_WEIGHT_BYTE * weights_bytes * max(1, prompt_tokens)
            return max(self._iteration_s, ops / SLOWEST_OPS_PER_S)
        return max(self._iteration_s, self.step_s + prompt_tokens / speed)

    def observe_step(self, seconds: float) -> None:
        """Take in how long a decoding step took."""
        self.step_s = _smooth(self.step_s, seconds)

    def observe(self, tokens: int, seconds: float, behind: int = 0) -> None:
        """Take in one measured chunk, which came behind so many tokens of its prompt.

        Short ones are slower per token. They only show that the speed is higher than assumed.
        """
        if seconds <= 0:
            return
        # A long prompt gets slower from chunk to chunk, as every token looks at all before it.
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
        """Return the length of the next chunk, a multiple of `CHUNK_STEP_TOKENS`.

        `behind` so many tokens of the prompt, where chunks of other prompts may have been slower
        than the last one was. Multiples keep the number of different array shapes small, which
        compiled kernels like.
        """
        if not self.tokens_per_s:
            # Where a step is slow, so is a chunk.
            slow = decoding and GAP_STEPS * self.step_s > GAP_ALONE_S
            return CHUNK_MIN_TOKENS if slow else CHUNK_FIRST_TOKENS
        gap_s = GAP_ALONE_S
        if decoding:
            gap_s = min(max(GAP_WHILE_DECODING_S, GAP_STEPS * self.step_s), GAP_ALONE_S)
        speed = min(self.tokens_per_s, self._deeper.get(behind // SPAN_TOKENS, math.inf))
        tokens = int(speed * gap_s) // CHUNK_STEP_TOKENS * CHUNK_STEP_TOKENS
        most = min(CHUNK_MAX_TOKENS, GROWTH * self._longest_tokens)
        least = CHUNK_MIN_TOKENS_WHILE_DECODING if decoding else CHUNK_MIN_TOKENS
        return max(least, min(most, tokens))


@dataclass(slots=True)
class Arrivals:
    """Whether requests come one by one or in bursts. Times are seconds of the monotonic clock."""

    _first_s: float = -1.0
    _came_alone: bool = True
    _expects_more: bool = False

    def came(self, now_s: float, *, alone: bool) -> None:
        """Take in a request; `alone`: the engine had no other."""
        if alone:
            self._expects_more = not self._came_alone
            self._first_s, self._came_alone = now_s, True
        elif now_s - self._first_s < BURST_WINDOW_S:
            self._came_alone = False

    def wait_until_s(self, tokenizing_since_s: list[float]) -> float:
        """Return until when the first prompt waits for others before it is computed.

        It waits for requests that are being tokenized (`tokenizing_since_s` holds their times of
        arrival) and, if the last requests came in a burst, for the rest of this burst.
        """
        until_s = max(tokenizing_since_s, default=-TOKENIZING_WAIT_S) + TOKENIZING_WAIT_S
        if self._expects_more:
            until_s = max(until_s, self._first_s + BURST_WINDOW_S)
        return until_s


def _cautious(before: float, new: float) -> float:
    """Follow a slower speed at once, a faster one slowly."""
    return new if new < before else _smooth(before, new)


def _smooth(before: float, new: float) -> float:
    return SMOOTHING * new + (1 - SMOOTHING) * before if before else new
