from __future__ import annotations

from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from mlxd.daemon.engine.decoding.sampling import BatchSampler, SequenceSampling, choice_seed

VOCABULARY = 40


def logprobs(rows: int, seed: int = 0) -> mx.array:
    rng = np.random.default_rng(seed)
    logits = mx.array(rng.normal(0, 2, (rows, VOCABULARY)).astype(np.float32))
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def support(params: SequenceSampling, row: mx.array, draws: int = 3000) -> Counter[int]:
    """Return how often `params` draws each token from one distribution."""
    sampler = BatchSampler([params] * draws)
    tiled = mx.broadcast_to(row, (draws, VOCABULARY))
    return Counter(ids(sampler(tiled, list(range(draws)))))


def ids(tokens: mx.array) -> list[int]:
    return [int(token) for token in np.array(tokens)]


def kept(filtered: mx.array) -> set[int]:
    return set(np.flatnonzero(np.isfinite(np.array(filtered)[0])).tolist())


@pytest.mark.parametrize(
    ("params", "reference"),
    [
        (SequenceSampling(1.0, top_p=0.8), lambda row: apply_top_p(row, 0.8)),
        (SequenceSampling(1.0, top_k=5), lambda row: apply_top_k(row, 5)),
        (SequenceSampling(1.0, min_p=0.1), lambda row: apply_min_p(row, 0.1, 1)),
        (
            SequenceSampling(1.0, min_p=0.9, min_tokens_to_keep=4),
            lambda row: apply_min_p(row, 0.9, 4),
        ),
    ],
)
def test_filters_keep_the_tokens_mlx_lms_keep(params: SequenceSampling, reference: Any) -> None:
    row = logprobs(1)
    drawn = support(params, row)
    allowed = kept(reference(row))
    assert set(drawn) <= allowed
    likely = {token for token in allowed if float(mx.exp(row[0, token])) > 0.02}
    assert likely <= set(drawn)


def test_sampled_frequencies_follow_the_probabilities() -> None:
    row = logprobs(1, seed=3)
    draws = 6000
    drawn = support(SequenceSampling(1.0), row, draws)
    probabilities = np.exp(np.array(row)[0])
    observed = np.array([drawn[token] / draws for token in range(VOCABULARY)])
    assert np.abs(observed - probabilities).max() < 0.03


def test_temperature_zero_picks_the_most_likely_token_in_a_mixed_batch() -> None:
    rows = logprobs(3)
    sampler = BatchSampler([SequenceSampling(), SequenceSampling(1.0, seed=1), SequenceSampling()])
    picked = ids(sampler(rows, [0, 0, 0]))
    best = ids(mx.argmax(rows, axis=-1))
    assert (picked[0], picked[2]) == (best[0], best[2])


def test_a_row_draws_the_same_whatever_the_others_ask_for() -> None:
    row = logprobs(1)
    mine = SequenceSampling(0.8, top_p=0.9, seed=5)
    others = [
        SequenceSampling(1.5, top_k=3, seed=1),
        SequenceSampling(0.7, min_p=0.2, min_tokens_to_keep=2, seed=2),
        SequenceSampling(1.0, xtc_probability=1.0, seed=3),
        SequenceSampling(),
    ]
    for step in range(20):
        alone = ids(BatchSampler([mine])(row, [step]))[0]
        rows = mx.concatenate([logprobs(2, 1), row, logprobs(2, 2)])
        together = BatchSampler([*others[:2], mine, *others[2:]])(rows, [9, 4, step, 0, 7])
        assert ids(together)[2] == alone


def test_xtc_excludes_the_top_tokens_except_exempt_ones() -> None:
    row = mx.log(mx.array([[0.4, 0.3, 0.2, 0.1]]))
    params = SequenceSampling(1.0, xtc_probability=1.0, xtc_threshold=0.15)
    sampler = BatchSampler([params] * 500)
    tiled = mx.broadcast_to(row, (500, 4))
    assert set(ids(sampler(tiled, list(range(500))))) == {2, 3}
    exempt = SequenceSampling(1.0, xtc_probability=1.0, xtc_threshold=0.15, xtc_exempt=(0,))
    sampler = BatchSampler([exempt] * 500)
    assert set(ids(sampler(tiled, list(range(500))))) == {0, 2, 3}


def test_every_choice_has_its_own_seed_and_the_first_uses_the_requests() -> None:
    seeds = [choice_seed(42, index) for index in range(64)]
    assert seeds[0] == 42
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**64 for seed in seeds)
