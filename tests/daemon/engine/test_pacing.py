from __future__ import annotations

from mlxd.daemon.engine.pacing import (
    CHUNK_FIRST_TOKENS,
    CHUNK_MAX_TOKENS,
    CHUNK_MIN_TOKENS,
    GAP_WHILE_DECODING_S,
    PrefillPacer,
)


def test_before_anything_is_measured_the_chunk_is_moderate():
    assert PrefillPacer().chunk_tokens(decoding=True) == CHUNK_FIRST_TOKENS


def test_the_chunk_keeps_the_gap_of_running_streams():
    pacer = PrefillPacer()
    pacer.observe(1000, 0.5)
    tokens = pacer.chunk_tokens(decoding=True)
    assert tokens / 2000 <= GAP_WHILE_DECODING_S
    assert pacer.chunk_tokens(decoding=False) > tokens


def test_chunks_stay_within_bounds_at_any_speed():
    for seconds in (1e-6, 1000.0):
        pacer = PrefillPacer()
        pacer.observe(1000, seconds)
        for decoding in (True, False):
            assert CHUNK_MIN_TOKENS <= pacer.chunk_tokens(decoding=decoding) <= CHUNK_MAX_TOKENS


def test_short_chunks_say_nothing_about_speed():
    pacer = PrefillPacer()
    pacer.observe(3, 1.0)
    assert pacer.tokens_per_s == 0.0


def test_a_slowdown_shortens_the_chunk():
    pacer = PrefillPacer()
    pacer.observe(1000, 0.1)
    before = pacer.chunk_tokens(decoding=False)
    for _ in range(10):
        pacer.observe(1000, 2.0)
    assert pacer.chunk_tokens(decoding=False) < before
