from __future__ import annotations

import pytest

from mlxd.daemon.engine.scheduling.pacing import (
    BURST_WINDOW_S,
    CHUNK_FIRST_TOKENS,
    CHUNK_MAX_TOKENS,
    CHUNK_MIN_TOKENS,
    CHUNK_MIN_TOKENS_WHILE_DECODING,
    GAP_ALONE_S,
    GAP_STEPS,
    GAP_WHILE_DECODING_S,
    TOKENIZING_WAIT_S,
    Arrivals,
    PrefillPacer,
)


def test_the_first_prefill_chunk_has_a_default_size() -> None:
    assert PrefillPacer().chunk_tokens(decoding=True) == CHUNK_FIRST_TOKENS


def test_a_prefill_chunk_respects_the_gap_limit_of_running_streams() -> None:
    pacer = PrefillPacer()
    pacer.observe(1000, 0.5)
    tokens = pacer.chunk_tokens(decoding=True)
    assert tokens / 2000 <= GAP_WHILE_DECODING_S
    assert pacer.chunk_tokens(decoding=False) > tokens


def test_prefill_chunks_stay_within_bounds_at_any_speed() -> None:
    for seconds in (1e-6, 1000.0):
        pacer = PrefillPacer()
        pacer.observe(1000, seconds)
        for decoding, least in ((True, CHUNK_MIN_TOKENS_WHILE_DECODING), (False, CHUNK_MIN_TOKENS)):
            assert least <= pacer.chunk_tokens(decoding=decoding) <= CHUNK_MAX_TOKENS


def test_short_chunks_are_not_used_to_measure_speed() -> None:
    pacer = PrefillPacer()
    pacer.observe(3, 1.0)
    assert pacer.tokens_per_s == 0.0


def test_on_a_busy_machine_streams_wait_for_short_chunks_and_long_ones_come_back_after_it() -> None:
    pacer = PrefillPacer()
    pacer.observe_step(0.4)
    assert pacer.chunk_tokens(decoding=True) == CHUNK_MIN_TOKENS, "the step is slow already"
    pacer.observe(64, 3.0)
    while (tokens := pacer.chunk_tokens(decoding=True)) != CHUNK_MIN_TOKENS_WHILE_DECODING:
        pacer.observe(tokens, tokens * 3.0 / 64)
    for _ in range(20):  # the machine is quiet again; a chunk has a fixed cost
        tokens = pacer.chunk_tokens(decoding=True)
        pacer.observe(tokens, 0.02 + tokens / 2000)
    assert tokens > CHUNK_MIN_TOKENS


def test_a_short_chunk_makes_no_slowdown() -> None:
    pacer = PrefillPacer()
    pacer.observe(1000, 0.5)
    pacer.observe(CHUNK_MIN_TOKENS - 1, 1.0)
    assert pacer.tokens_per_s == 2000


def test_a_slowdown_shortens_the_next_chunk_at_once() -> None:
    pacer = PrefillPacer()
    pacer.observe(1000, 0.1)
    before = pacer.chunk_tokens(decoding=False)
    pacer.observe(1000, 2.0)
    shorter = pacer.chunk_tokens(decoding=False)
    assert shorter / 500 <= GAP_ALONE_S, "at once: the next chunk of a long prompt is even slower"
    pacer.observe(1000, 0.1)
    assert shorter < pacer.chunk_tokens(decoding=False) < before


def test_chunks_behind_a_long_prefix_use_the_speed_measured_there() -> None:
    pacer = PrefillPacer()
    pacer.observe(2000, 0.2)
    pacer.observe(1000, 0.2, behind=5000)
    for _ in range(30):
        pacer.observe(1000, 0.1)  # the first chunks of other prompts, each as fast as the first
    assert pacer.chunk_tokens(decoding=False, behind=5100) <= 5000 * GAP_ALONE_S
    assert pacer.chunk_tokens(decoding=False) == CHUNK_MAX_TOKENS
    assert pacer.chunk_tokens(decoding=False, behind=9000) == CHUNK_MAX_TOKENS, "not measured yet"


def test_a_chunk_is_at_most_twice_the_longest_before() -> None:
    pacer = PrefillPacer()
    pacer.observe(CHUNK_FIRST_TOKENS, 0.01)
    lengths = []
    for _ in range(3):
        lengths.append(pacer.chunk_tokens(decoding=False))
        pacer.observe(lengths[-1], 0.01)
    assert lengths == [2 * CHUNK_FIRST_TOKENS, 4 * CHUNK_FIRST_TOKENS, CHUNK_MAX_TOKENS]


def test_the_gap_limit_grows_with_the_duration_of_decode_steps() -> None:
    pacer = PrefillPacer()
    pacer.observe(10_000, 10.0)
    pacer.observe_step(0.001)
    quick = pacer.chunk_tokens(decoding=True)
    assert quick / 1000 <= GAP_WHILE_DECODING_S + 0.032
    for _ in range(50):
        pacer.observe_step(0.08)
    assert quick < pacer.chunk_tokens(decoding=True) <= 1000 * GAP_STEPS * 0.08
    for _ in range(50):
        pacer.observe_step(5.0)
    assert pacer.chunk_tokens(decoding=True) <= 1000 * GAP_ALONE_S


def test_a_single_request_does_not_wait_for_others() -> None:
    arrivals = Arrivals()
    for second in range(3):
        arrivals.came(float(second), alone=True)
        assert arrivals.wait_until_s([]) <= second


def test_requests_being_tokenized_are_waited_for_briefly() -> None:
    arrivals = Arrivals()
    arrivals.came(1.0, alone=True)
    arrivals.came(1.001, alone=False)
    assert arrivals.wait_until_s([1.0, 1.001]) == 1.001 + TOKENIZING_WAIT_S
    assert arrivals.wait_until_s([]) <= 1.0


def test_a_burst_is_expected_only_after_a_burst() -> None:
    arrivals = Arrivals()
    arrivals.came(1.0, alone=True)
    arrivals.came(1.001, alone=False)
    arrivals.came(5.0, alone=True)
    assert arrivals.wait_until_s([]) == 5.0 + BURST_WINDOW_S
    arrivals.came(5.5, alone=False)  # too late for that burst
    arrivals.came(9.0, alone=True)
    assert arrivals.wait_until_s([]) <= 9.0


def test_the_expected_duration_of_the_first_turn_is_estimated_from_weights() -> None:
    pacer = PrefillPacer()
    assert pacer.expected_s(256, 15_000_000) == pytest.approx(4 * 15e6 * 256 / 3e9)


def test_the_expected_duration_of_a_turn_follows_measurements() -> None:
    pacer = PrefillPacer()
    pacer.observe(10, 1.0)
    assert pacer.expected_s(200, 15_000_000) == pytest.approx(20)
    pacer.observe(200, 1.0)
    pacer.observe_step(0.5)
    assert pacer.expected_s(200, 15_000_000) == pytest.approx(1.5)
    pacer.observe_iteration(8.0)
    assert pacer.expected_s(200, 15_000_000) == 8.0, "as long as a recent turn"
    for _ in range(300):
        pacer.observe_iteration(0.5)
    assert pacer.expected_s(200, 15_000_000) == pytest.approx(1.5)


def test_chunks_for_a_gpu_are_multiples_of_its_step_at_any_speed() -> None:
    for seconds in (1e-6, 0.3, 0.9, 2.0, 1000.0):
        pacer = PrefillPacer(chunk_step_tokens=256)
        pacer.observe(1000, seconds)
        for decoding in (True, False):
            tokens = pacer.chunk_tokens(decoding=decoding)
            assert tokens % 256 == 0
            assert 256 <= tokens <= CHUNK_MAX_TOKENS
