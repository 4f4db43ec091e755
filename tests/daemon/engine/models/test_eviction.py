"""The eviction policy in simulated time: random sets of models, checked for invariants."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.daemon.engine.models.eviction import (
    WARNING_LASTS_S,
    ModelState,
    expired,
    next_expiry_s,
    plan_evictions,
    under_pressure,
)


def random_residents(seed: int) -> tuple[random.Random, list[ModelState]]:
    """Return random residents, some of which share the weights of others."""
    rng = random.Random(seed)
    models: list[ModelState] = []
    for number in range(rng.randrange(0, 9)):
        bases = [one.key for one in models if not one.depends_on]
        shares = bases and rng.random() < 0.4
        models.append(
            ModelState(
                key=f"m{number}",
                bytes=rng.randrange(1, 100),
                last_used_s=rng.uniform(0, 100),
                keep_alive_s=rng.choice([0.0, 10.0, 50.0, math.inf]),
                pinned=rng.random() < 0.2,
                requests=rng.choice([0, 0, 0, 1]),
                depends_on=(rng.choice(bases),) if shares else (),
            )
        )
    return rng, models


def check_evicted(models: list[ModelState], evicted: tuple[str, ...]) -> None:
    """Check that no evicted model is busy, pinned or still needed by a remaining one."""
    by_key = {one.key: one for one in models}
    staying = set(by_key)
    for key in evicted:
        assert by_key[key].idle
        staying.remove(key)
        assert not any(key in by_key[other].depends_on for other in staying), "in this order"


@settings(max_examples=2000, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_load_stays_within_the_budget_and_evicts_no_model_in_use(seed: int) -> None:
    rng, models = random_residents(seed)
    budget, need = rng.randrange(1, 500), rng.randrange(1, 200)
    beside = tuple(one.key for one in models if rng.random() < 0.1)
    plan = plan_evictions(models, need, budget, beside=beside)
    if not plan.fits:
        assert plan.evict == ()
        return
    check_evicted(models, plan.evict)
    assert not set(plan.evict) & set(beside)
    staying = sum(one.bytes for one in models if one.key not in plan.evict)
    assert staying + need <= budget
    assert plan.free_bytes == budget - staying


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_refused_load_would_not_fit_even_if_all_idle_models_were_evicted(seed: int) -> None:
    rng, models = random_residents(seed)
    budget, need = rng.randrange(1, 300), rng.randrange(1, 200)
    if plan_evictions(models, need, budget).fits:
        return
    kept = {one.key for one in models if not one.idle}
    kept |= {key for one in models if one.key in kept for key in one.depends_on}
    assert sum(one.bytes for one in models if one.key in kept) + need > budget


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_model_is_evicted_without_need(seed: int) -> None:
    rng, models = random_residents(seed)
    budget, need = rng.randrange(50, 500), rng.randrange(1, 200)
    plan = plan_evictions(models, need, budget)
    bases = {key for one in models if one.key not in plan.evict for key in one.depends_on}
    for one in models:
        if one.key in plan.evict and not bases & {one.key}:
            base_evicted = any(key in plan.evict for key in one.depends_on)
            assert base_evicted or plan.free_bytes - one.bytes < need


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_expiry_and_memory_pressure_evict_only_idle_models(seed: int) -> None:
    rng, models = random_residents(seed)
    now_s = rng.uniform(0, 200)
    evicted = expired(models, now_s)
    check_evicted(models, evicted)
    assert all(one.expires_s <= now_s for one in models if one.key in evicted)
    when = next_expiry_s([one for one in models if one.key not in evicted])
    assert when is None or when > now_s
    check_evicted(models, under_pressure(models, "critical"))
    assert len(under_pressure(models, "warning")) <= 1
    assert under_pressure(models, "normal") == ()
    assert under_pressure(models, "warning", lasted_s=WARNING_LASTS_S / 2) == ()


def test_a_model_that_is_kept_forever_goes_last_under_pressure() -> None:
    forever = ModelState("forever", 10, last_used_s=1, keep_alive_s=math.inf)
    idle = ModelState("idle", 10, last_used_s=2, keep_alive_s=60)
    pinned = ModelState("pinned", 10, last_used_s=0, keep_alive_s=60, pinned=True)
    for level in ("warning", "critical"):
        assert under_pressure([forever, idle, pinned], level) == ("idle",)
        assert under_pressure([forever, pinned], level) == ("forever",)
        assert under_pressure([pinned], level) == ()


def test_the_least_recently_used_model_is_evicted_first() -> None:
    models = [ModelState("a", 10, last_used_s=2), ModelState("b", 10, last_used_s=1)]
    assert plan_evictions(models, 10, 20).evict == ("b",)


def test_evicting_one_large_model_spares_smaller_ones() -> None:
    models = [ModelState("small", 10, last_used_s=1), ModelState("large", 90, last_used_s=2)]
    assert plan_evictions(models, 50, 100).evict == ("large",)


def test_a_base_model_is_evicted_after_its_last_adapter() -> None:
    base = ModelState("base", 90, last_used_s=0, keep_alive_s=0)
    adapter = ModelState("adapter", 5, last_used_s=50, keep_alive_s=10, depends_on=("base",))
    assert expired([base, adapter], now_s=55) == ()
    assert expired([base, adapter], now_s=60) == ("adapter", "base")
    assert plan_evictions([base, adapter], 50, 100).evict == ("adapter", "base")
