"""Batched decoding against mlx-lm's own generation, on a random model."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors

from mlxd.daemon.engine.constraints.compiler import Guide
from mlxd.daemon.engine.decoding.batch import DecodeBatch, DecodeSequence, Emitted, Start
from mlxd.daemon.engine.decoding.sampling import SequenceSampling
from mlxd.daemon.engine.prefill.chunks import Prefill

LENGTH = 24
RNG = random.Random(5)
PROMPTS = [[RNG.randrange(96) for _ in range(RNG.randrange(1, 40))] for _ in range(8)]
SequenceFactory = Callable[[int], DecodeSequence]


@pytest.fixture
def batch(tiny_model: Any) -> DecodeBatch:
    return DecodeBatch(tiny_model)


def greedy(uid: int) -> DecodeSequence:
    return DecodeSequence(uid=uid, sampling=SequenceSampling())


def sampled(uid: int) -> DecodeSequence:
    return DecodeSequence(
        uid=uid, sampling=SequenceSampling(temperature=0.9, top_p=0.9, seed=100 + uid)
    )


Out = dict[int, list[int]]
Step = Callable[[DecodeBatch], list[Emitted]]


def start(
    batch: DecodeBatch, prompt: list[int], sequence: DecodeSequence, out: Out, chunk: int = 1000
) -> list[Emitted]:
    prefill = Prefill(batch.model, prompt)
    while prefill.left:
        prefill.run(chunk)
    return record_tokens(batch.start([Start(sequence, prefill)]), out)


def record_tokens(emitted: list[Emitted], out: Out) -> list[Emitted]:
    for one in emitted:
        out.setdefault(one.uid, []).append(one.token)
    return emitted


def random_step(batch: DecodeBatch) -> list[Emitted]:
    """Run one step with `step` or `step_alone`, chosen at random."""
    return batch.step() if RNG.random() < 0.5 else batch.step_alone()


def finish(
    batch: DecodeBatch, out: Out, length: int = LENGTH, step: Step = DecodeBatch.step
) -> None:
    while len(batch):
        record_tokens(step(batch), out)
        batch.remove(
            [sequence.uid for sequence in batch.sequences if len(out[sequence.uid]) >= length]
        )


def alone(model: Any, index: int, make: SequenceFactory) -> list[int]:
    batch = DecodeBatch(model)
    out: Out = {index: []}
    start(batch, PROMPTS[index], make(index), out)
    finish(batch, out)
    return out[index]


def reference(model: Any, prompt: list[int], **kwargs: Any) -> list[int]:
    steps = generate_step(mx.array(prompt), model, max_tokens=LENGTH, **kwargs)
    return [int(token) for token, _ in steps]


def test_greedy_text_equals_mlx_lm_alone_and_in_a_batch(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    expected = [reference(tiny_model, prompt) for prompt in PROMPTS]
    out: Out = {}
    for uid, prompt in enumerate(PROMPTS):
        start(batch, prompt, greedy(uid), out)
        assert alone(tiny_model, uid, greedy) == expected[uid]
    finish(batch, out)
    assert [out[uid] for uid in range(8)] == expected


def test_a_seeded_sequence_is_the_same_alone_and_in_a_batch(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    out: Out = {}
    for uid, prompt in enumerate(PROMPTS):
        start(batch, prompt, sampled(uid), out)
    finish(batch, out)
    for uid in range(8):
        assert out[uid] == alone(tiny_model, uid, sampled)
    assert len({tuple(tokens) for tokens in out.values()}) == 8


@pytest.mark.parametrize("step", [DecodeBatch.step, DecodeBatch.step_alone, random_step])
def test_sequences_that_join_leave_and_are_preempted_at_odd_moments_lose_nothing(
    tiny_model: Any, batch: DecodeBatch, step: Callable[[DecodeBatch], list[Emitted]]
) -> None:
    out: Out = {}
    preempted: list[Any] = []
    for uid, prompt in enumerate(PROMPTS):
        start(batch, prompt, sampled(uid), out, chunk=3)
        record_tokens(step(batch), out)
        if uid in (2, 5):
            preempted.append(batch.preempt(uid - 1))
        if uid in (4, 7):
            batch.resume(preempted.pop())
    finish(batch, out, step=step)
    for uid in range(8):
        assert out[uid] == alone(tiny_model, uid, sampled)


def test_a_single_sequence_can_be_preempted_and_resumed(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    out: Out = {0: []}
    start(batch, PROMPTS[0], greedy(0), out)
    record_tokens(batch.step(), out)
    preempted = batch.preempt(0)
    assert len(batch) == 0
    batch.resume(preempted)
    finish(batch, out)
    assert out[0] == reference(tiny_model, PROMPTS[0])


def test_the_cache_of_a_sequence_covers_its_prompt_and_the_emitted_tokens(
    batch: DecodeBatch,
) -> None:
    out: Out = {}
    for uid in range(3):
        start(batch, PROMPTS[uid], greedy(uid), out)
    for _ in range(3):
        assert batch.caches_of([1])[0][0].offset == len(PROMPTS[1]) + len(out[1]) - batch.lag(1)
        record_tokens(batch.step(), out)
    assert batch.lag(1) == 0


def test_step_alone_emits_tokens_before_feeding_them_to_the_model(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    out: Out = {}
    for uid in range(2):
        start(batch, PROMPTS[uid], greedy(uid), out)
    record_tokens(batch.step(), out)
    for tokens in range(2, LENGTH + 1):
        assert {one.uid for one in record_tokens(batch.step_alone(), out)} == {0, 1}
        assert batch.lag(1) == 1
        assert batch.caches_of([1])[0][0].offset == len(PROMPTS[1]) + tokens - 1
    assert [out[uid] for uid in range(2)] == [reference(tiny_model, PROMPTS[uid]) for uid in (0, 1)]


def test_the_last_step_emits_a_token_without_computing_another(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    out: Out = {}
    for uid in range(2):
        start(batch, PROMPTS[uid], greedy(uid), out)
    for _ in range(LENGTH - 1):
        record_tokens(batch.step(), out)
    record_tokens(batch.step(last=True), out)
    for uid in range(2):
        assert out[uid] == reference(tiny_model, PROMPTS[uid])
        assert batch.lag(uid) == 1
        covered = len(PROMPTS[uid]) + len(out[uid]) - 1
        assert batch.caches_of([uid])[0][0].offset == covered


def test_several_choices_share_one_prefill(tiny_model: Any, batch: DecodeBatch) -> None:
    out: Out = {}
    prefill = Prefill(tiny_model, PROMPTS[0])
    prefill.run(1000)
    sequences = [DecodeSequence(uid=uid, sampling=sampled(uid).sampling) for uid in range(3)]
    record_tokens(batch.start([Start(sequence, prefill) for sequence in sequences]), out)
    finish(batch, out)
    assert out[0] == alone(tiny_model, 0, sampled)
    assert len({tuple(tokens) for tokens in out.values()}) == 3


def test_penalties_equal_mlx_lms_in_a_batch(tiny_model: Any, batch: DecodeBatch) -> None:
    def processors() -> tuple[Any, ...]:
        return tuple(make_logits_processors({3: -5.0}, 1.3, 10, 0.4, 10, 0.2, 10))

    expected = reference(tiny_model, PROMPTS[2], logits_processors=list(processors()))
    prompt = PROMPTS[2]
    sequence = DecodeSequence(
        uid=2,
        sampling=SequenceSampling(),
        processors=processors(),
        context=mx.array(prompt[:-1][-10:], dtype=mx.uint32),
        context_size=10,
    )
    out: Out = {}
    start(batch, PROMPTS[0], greedy(0), out)
    start(batch, prompt, sequence, out)
    finish(batch, out)
    assert out[2] == expected
    assert out[0] == reference(tiny_model, PROMPTS[0])


def test_log_probabilities_are_reported_only_for_sequences_that_ask(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    out: Out = {}
    detailed_row = DecodeSequence(uid=1, sampling=SequenceSampling(), logprobs=3)
    chosen_row = DecodeSequence(uid=2, sampling=SequenceSampling(), logprobs=0)
    (plain,) = start(batch, PROMPTS[0], greedy(0), out)
    (detailed,) = start(batch, PROMPTS[1], detailed_row, out)
    (chosen_only,) = start(batch, PROMPTS[2], chosen_row, out)
    assert plain.logprob is None
    assert chosen_only.logprob is not None
    assert chosen_only.top == ()
    assert detailed.top[0][0] == detailed.token
    assert detailed.top[0][1] == pytest.approx(detailed.logprob)
    assert [value for _, value in detailed.top] == sorted(
        (value for _, value in detailed.top), reverse=True
    )
    cache = Prefill(tiny_model, PROMPTS[1])
    cache.run(1000)
    logits = tiny_model(mx.array([PROMPTS[1][-1:]]), cache=cache.cache)[0, -1]
    expected = (logits - mx.logsumexp(logits)).tolist()[detailed.token]
    assert detailed.logprob == pytest.approx(expected, abs=1e-4)


class OnlyEven:
    """A constraint that allows even tokens only."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def mask(self) -> Any:
        return np.arange(96) % 2 == 0

    def advance(self, token: int) -> None:
        self.seen.append(token)


def test_a_constraint_masks_its_own_sequence_and_sees_every_token(
    tiny_model: Any, batch: DecodeBatch
) -> None:
    constraint = OnlyEven()
    sequence = DecodeSequence(uid=1, sampling=sampled(1).sampling, constraint=Guide(constraint))  # type: ignore[arg-type]
    out: Out = {}
    start(batch, PROMPTS[0], sampled(0), out)
    start(batch, PROMPTS[1], sequence, out)
    finish(batch, out)
    assert all(token % 2 == 0 for token in out[1])
    assert constraint.seen[: LENGTH - 1] == out[1][: LENGTH - 1]
    assert out[0] == alone(tiny_model, 0, sampled)


def test_a_constraint_applies_only_after_the_reasoning(tiny_model: Any, batch: DecodeBatch) -> None:
    free = alone(tiny_model, 1, sampled)
    marker = (free[4],)
    first = free.index(marker[0])
    sequence = DecodeSequence(
        uid=1,
        sampling=sampled(1).sampling,
        constraint=Guide(OnlyEven(), think_end=marker),  # type: ignore[arg-type]
    )
    out: Out = {}
    start(batch, PROMPTS[1], sequence, out)
    finish(batch, out)
    assert out[1][: first + 1] == free[: first + 1]
    assert all(token % 2 == 0 for token in out[1][first + 1 :])


def test_prefill_in_chunks_stops_before_the_last_token(tiny_model: Any) -> None:
    prefill = Prefill(tiny_model, PROMPTS[3])
    counts = []
    while prefill.left:
        counts.append(prefill.run(4))
    assert sum(counts) == len(PROMPTS[3]) - 1
    assert max(counts) <= 4
    assert prefill.cache[0].offset == len(PROMPTS[3]) - 1
