"""The residency policy in simulated time: random worlds against stated invariants."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.daemon.engine.models.eviction import (
    Resident,
    expired,
    next_expiry_s,
    plan_load,
    under_pressure,
)


def world(seed: int) -> tuple[random.Random, list[Resident]]:
    """Return residents of which some share the weights of others."""
    rng = random.Random(seed)
    residents: list[Resident] = []
    for number in range(rng.randrange(0, 9)):
        bases = [one.key for one in residents if not one.rests_on]
        shares = bases and rng.random() < 0.4
        residents.append(
            Resident(
                key=f"m{number}",
                bytes=rng.randrange(1, 100),
                last_used_s=rng.uniform(0, 100),
                keep_alive_s=rng.choice([0.0, 10.0, 50.0, math.inf]),
                pinned=rng.random() < 0.2,
                requests=rng.choice([0, 0, 0, 1]),
                rests_on=(rng.choice(bases),) if shares else (),
            )
        )
    return rng, residents


def check_gone(residents: list[Resident], gone: tuple[str, ...]) -> None:
    """Nobody who is busy, pinned, or whose weights another one still uses may go."""
    by_key = {one.key: one for one in residents}
    staying = set(by_key)
    for key in gone:
        assert by_key[key].idle
        staying.remove(key)
        assert not any(key in by_key[other].rests_on for other in staying), "in this order"


@settings(max_examples=2000, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_load_never_ends_above_the_budget_and_evicts_nobody_in_use(seed) -> None:
    rng, residents = world(seed)
    budget, need = rng.randrange(1, 500), rng.randrange(1, 200)
    beside = tuple(one.key for one in residents if rng.random() < 0.1)
    plan = plan_load(residents, need, budget, beside=beside)
    if not plan.fits:
        assert plan.evict == ()
        return
    check_gone(residents, plan.evict)
    assert not set(plan.evict) & set(beside)
    staying = sum(one.bytes for one in residents if one.key not in plan.evict)
    assert staying + need <= budget
    assert plan.free_bytes == budget - staying


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_load_that_is_refused_would_not_fit_with_everything_evicted(seed) -> None:
    rng, residents = world(seed)
    budget, need = rng.randrange(1, 300), rng.randrange(1, 200)
    if plan_load(residents, need, budget).fits:
        return
    kept = {one.key for one in residents if not one.idle}
    kept |= {key for one in residents if one.key in kept for key in one.rests_on}
    assert sum(one.bytes for one in residents if one.key in kept) + need > budget


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_goes_that_need_not(seed) -> None:
    rng, residents = world(seed)
    budget, need = rng.randrange(50, 500), rng.randrange(1, 200)
    plan = plan_load(residents, need, budget)
    rests = {key for one in residents if one.key not in plan.evict for key in one.rests_on}
    for one in residents:
        if one.key in plan.evict and not rests & {one.key}:
            resting_gone = any(key in plan.evict for key in one.rests_on)
            assert resting_gone or plan.free_bytes - one.bytes < need


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_time_and_pressure_take_only_what_nobody_uses(seed) -> None:
    rng, residents = world(seed)
    now_s = rng.uniform(0, 200)
    gone = expired(residents, now_s)
    check_gone(residents, gone)
    assert all(one.expires_s <= now_s for one in residents if one.key in gone)
    when = next_expiry_s([one for one in residents if one.key not in gone])
    assert when is None or when > now_s
    check_gone(residents, under_pressure(residents, "critical"))
    assert len(under_pressure(residents, "warning")) <= 1
    assert under_pressure(residents, "normal") == ()


def test_the_least_recently_used_goes_first() -> None:
    residents = [Resident("a", 10, last_used_s=2), Resident("b", 10, last_used_s=1)]
    assert plan_load(residents, 10, 20).evict == ("b",)


def test_a_large_model_that_goes_spares_the_smaller_ones_before_it() -> None:
    residents = [Resident("small", 10, last_used_s=1), Resident("large", 90, last_used_s=2)]
    assert plan_load(residents, 50, 100).evict == ("large",)


def test_a_base_goes_after_the_last_adapter_that_rests_on_it() -> None:
    base = Resident("base", 90, last_used_s=0, keep_alive_s=0)
    adapter = Resident("adapter", 5, last_used_s=50, keep_alive_s=10, rests_on=("base",))
    assert expired([base, adapter], now_s=55) == ()
    assert expired([base, adapter], now_s=60) == ("adapter", "base")
    assert plan_load([base, adapter], 50, 100).evict == ("adapter", "base")
