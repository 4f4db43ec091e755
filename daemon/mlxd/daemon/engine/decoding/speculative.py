"""Speculative decoding: a small draft model proposes tokens, and the model verifies them in one
step.

Proposals are sampled with the same noise that the model uses at that step. Where both models have
the same distribution, they choose the same token, at any temperature. Emitted tokens are always the
model's own samples, so the text is the same with and without proposals (if the kernels compute the
same logits for one position and for several).

Leviathan, Kalman, Matias: Fast Inference from Transformers via Speculative Decoding (2023).
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache, trim_prompt_cache

from mlxd.daemon.engine.decoding.sampling import BatchSampler, SequenceSampling
from mlxd.protocol.params import TOKEN_IDS_END

WIDTH_FIRST, WIDTH_MAX = 4, 8
"""Proposals per round. The number follows the accepted proposals."""
LAG_MAX_TOKENS = 16
"""A round feeds at most this many missing tokens to the draft model. If more are missing, it is
prefilled in chunks."""
PROBATION_TOKENS = 48
ACCEPTED_MIN_SHARE = 0.3
"""Below this share, after the probation, verifying costs more than it saves."""

Cache = list[Any]


def can_rewind(model: Any) -> bool:
    """Return whether tokens can be removed from the model's caches without loss."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


class Draft:
    """The draft model's state for one sequence. It has processed the first `done` tokens."""

    def __init__(
        self,
        name: str,
        model: Any,
        cache: Cache | None = None,
        done: int = 0,
        *,
        last_id: int = TOKEN_IDS_END - 1,
    ) -> None:
        """`last_id` is the last token id that both models have."""
        self.name = name
        self._last_id = last_id
        self.model = model
        self.cache: Cache = make_prompt_cache(model) if cache is None else cache
        self.done = done
        self.width = WIDTH_FIRST
        self.proposed = 0
        self.accepted = 0

    @property
    def worthwhile(self) -> bool:
        """Whether enough proposals are accepted to continue."""
        on_probation = self.proposed < PROBATION_TOKENS
        return on_probation or self.accepted >= ACCEPTED_MIN_SHARE * self.proposed

    def catch_up(self, tokens: list[int]) -> None:
        """Process the next `tokens` of the sequence."""
        self.model(self._shared(mx.array(tokens))[None], cache=self.cache)
        mx.eval([layer.state for layer in self.cache])
        self.done += len(tokens)

    def propose(
        self, behind: list[int], pending: mx.array, count: int, params: SequenceSampling, step: int
    ) -> list[mx.array]:
        """Return `count` lazy tokens, each of shape (1,), that may follow `pending`, shape (1,).

        `behind` are the tokens before `pending` that were not processed yet. `step` is the number
        of the sample that follows `pending`.
        """
        sampler = BatchSampler([params])
        feed = mx.concatenate([mx.array(behind, dtype=mx.uint32), pending]) if behind else pending
        feed = self._shared(feed)
        proposals = []
        for index in range(count):
            logits = self.model(feed[None], cache=self.cache)[:, -1, :]
            feed = sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True), [step + index])
            feed = self._shared(feed)
            proposals.append(feed)
        self.done += len(behind) + count
        return proposals

    def _shared(self, tokens: mx.array) -> mx.array:
        """Replace ids that only one of the models has by the last id of both.

        Model families pad their vocabularies to different lengths, and MLX does not check indices.
        """
        return mx.minimum(tokens, self._last_id)

    def settle(self, count: int, accepted: int) -> None:
        """Remove the rejected ones of the last `count` proposals from the cache."""
        self.proposed += count
        self.accepted += accepted
        # The last proposal was never fed, so with all accepted there is nothing to remove.
        self.rewind(max(0, count - 1 - accepted))
        self.width = min(WIDTH_MAX, self.width + 1) if accepted == count else accepted + 1

    def rewind(self, tokens: int) -> None:
        """Remove the last `tokens` from the cache."""
        if tokens > 0:
            trim_prompt_cache(self.cache, tokens)
            self.done -= tokens

    def to_map(self) -> dict[str, Any]:
        """Return the statistics for the result."""
        return {"model": self.name, "proposed": self.proposed, "accepted": self.accepted}


def verify(
    model: Any,
    cache: Cache,
    pending: mx.array,
    proposals: list[mx.array],
    params: SequenceSampling,
    step: int,
) -> tuple[list[int], int, mx.array]:
    """Verify proposals in one forward pass. Afterwards the cache covers exactly the emitted tokens.

    Returns (emitted, accepted, next): `pending` and the accepted proposals as numbers, the number
    of accepted proposals, and the model's own next token, shape (1,), which is now pending.
    """
    count = len(proposals)
    feed = mx.concatenate([pending, *proposals])
    logits = model(feed[None], cache=cache)[0]
    sampler = BatchSampler([params] * (count + 1))
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    sampled = sampler(logprobs, [step + index for index in range(count + 1)])
    tokens = cast(list[int], mx.concatenate([feed, sampled.astype(feed.dtype)]).tolist())
    fed, own = tokens[: count + 1], tokens[count + 1 :]
    accepted = 0
    while accepted < count and fed[accepted + 1] == own[accepted]:
        accepted += 1
    trim_prompt_cache(cache, count - accepted)
    return fed[: accepted + 1], accepted, sampled[accepted : accepted + 1]
