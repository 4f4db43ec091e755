"""Prompts prefilled in one pass, compared with each of them alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mlxd.daemon.engine.decoding.batch import DecodeBatch, DecodeSequence, Start
from mlxd.daemon.engine.decoding.sampling import SequenceSampling
from mlxd.daemon.engine.prefill.chunks import Prefill, run_together

LENGTH = 12
RNG = random.Random(8)
PROMPTS = [[RNG.randrange(96) for _ in range(size)] for size in (9, 31, 2, 17, 17)]


def answers(model: Any, prompts: list[Prefill]) -> list[list[int]]:
    """Return what the prompts are answered, greedily and in a batch."""
    batch = DecodeBatch(model)
    sequences = [
        DecodeSequence(uid=uid, sampling=SequenceSampling()) for uid in range(len(prompts))
    ]
    first = batch.start(
        [Start(sequence, prompt) for sequence, prompt in zip(sequences, prompts, strict=True)]
    )
    out = {one.uid: [one.token] for one in first}
    while len(out[0]) < LENGTH:
        for one in batch.step():
            out[one.uid].append(one.token)
    return [out[uid] for uid in range(len(prompts))]


@pytest.fixture
def expected(tiny_model: Any) -> list[list[int]]:
    return [answers(tiny_model, [prefill_alone(tiny_model, prompt)])[0] for prompt in PROMPTS]


def prefill_alone(model: Any, prompt: list[int], tokens: int = 1000) -> Prefill:
    prefill = Prefill(model, prompt)
    prefill.run(tokens)
    return prefill


def prefill_together(model: Any, begun: tuple[int, ...] = (0, 0, 0, 0, 0)) -> list[Prefill]:
    """Prefill all prompts in one pass, after the first `begun` tokens of each alone."""
    prefills = [
        prefill_alone(model, prompt, done) for prompt, done in zip(PROMPTS, begun, strict=True)
    ]
    run_together(model, [(prefill, prefill.left) for prefill in prefills])
    assert all(prefill.left == 0 for prefill in prefills)
    return prefills


@pytest.mark.parametrize("begun", [(0, 0, 0, 0, 0), (3, 0, 1, 16, 5), (8, 30, 1, 3, 16)])
def test_prompts_prefilled_in_one_pass_decode_as_if_alone(
    tiny_model: Any, expected: list[list[int]], begun: tuple[int, ...]
) -> None:
    assert answers(tiny_model, prefill_together(tiny_model, begun)) == expected


def test_prompts_of_one_pass_can_start_in_any_order_and_subset(
    tiny_model: Any, expected: list[list[int]]
) -> None:
    prefills = prefill_together(tiny_model)
    chosen = [prefills[index] for index in (3, 0, 4)]
    assert answers(tiny_model, chosen) == [expected[index] for index in (3, 0, 4)]
    # The other prompts keep their KV caches when the chosen ones continue.
    assert answers(tiny_model, [prefills[1], prefills[2]]) == [expected[1], expected[2]]


def test_a_prompt_of_one_pass_can_continue_alone_or_as_several_choices(
    tiny_model: Any, expected: list[list[int]]
) -> None:
    prefills = prefill_together(tiny_model)
    assert answers(tiny_model, [prefills[1]]) == [expected[1]]
    assert answers(tiny_model, [prefills[2], prefills[2]]) == [expected[2], expected[2]]


def test_a_pass_can_prefill_a_part_of_each_prompt(
    tiny_model: Any, expected: list[list[int]]
) -> None:
    prefills = [Prefill(tiny_model, prompt) for prompt in PROMPTS]
    run_together(tiny_model, [(prefill, prefill.left // 2) for prefill in prefills])
    run_together(tiny_model, [(prefill, prefill.left) for prefill in prefills])
    assert answers(tiny_model, prefills) == expected
    assert all(len(one.tokens) - 1 == one.done for one in prefills)


def test_every_prompt_keeps_a_kv_cache_of_its_own_length(tiny_model: Any) -> None:
    for prefill in prefill_together(tiny_model, (0, 7, 0, 2, 16)):
        assert [layer.offset for layer in prefill.cache] == [prefill.done] * 2
        assert prefill.cache[0].keys.shape[2] == prefill.done
