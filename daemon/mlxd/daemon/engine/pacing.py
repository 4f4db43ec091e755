"""How long a prefill chunk may be, so that nobody who waits behind it waits long."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_MIN_TOKENS = 64
CHUNK_MAX_TOKENS = 2048  # mlx-lm's own prefill_step_size
CHUNK_FIRST_TOKENS = 256  # before anything was measured
GAP_WHILE_DECODING_S = 0.06
"""What a running stream may wait for one chunk: shorter than a reader notices."""
GAP_ALONE_S = 0.35
"""What a newcomer of a higher class, or a cancel, may wait for one chunk."""
SMOOTHING = 0.3


@dataclass(slots=True)
class PrefillPacer:
    """Learns a model's prefill speed and turns a time limit into a number of tokens."""

    tokens_per_s: float = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Take in one measured chunk. Short ones say little about speed and are left out."""
        if tokens < CHUNK_MIN_TOKENS or seconds <= 0:
            return
        speed = tokens / seconds
        if self.tokens_per_s:
            speed = SMOOTHING * speed + (1 - SMOOTHING) * self.tokens_per_s
        self.tokens_per_s = speed

    def chunk_tokens(self, *, decoding: bool) -> int:
        """Return the length of the next chunk, a multiple of `CHUNK_MIN_TOKENS`.

        Multiples keep the number of different array shapes small, which compiled kernels like.
        """
        if not self.tokens_per_s:
            return CHUNK_FIRST_TOKENS
        gap_s = GAP_WHILE_DECODING_S if decoding else GAP_ALONE_S
        tokens = int(self.tokens_per_s * gap_s) // CHUNK_MIN_TOKENS * CHUNK_MIN_TOKENS
        return max(CHUNK_MIN_TOKENS, min(CHUNK_MAX_TOKENS, tokens))
