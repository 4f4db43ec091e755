"""Decides which models stay in memory. Pure: facts in, decisions out, and times are arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KEEP_ALIVE_OVER = "its keep-alive time ended"


@dataclass(frozen=True, slots=True)
class ModelState:
    """A loaded model.

    `requests` is the number of requests that use it. `keep_alive_s` may be infinite.

    `depends_on` are the models whose weights it shares. They stay loaded as long as it does.
    """

    key: str
    bytes: int
    last_used_s: float
    keep_alive_s: float = math.inf
    pinned: bool = False
    requests: int = 0
    depends_on: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        return not self.pinned and self.requests == 0

    @property
    def expires_s(self) -> float:
        return self.last_used_s + self.keep_alive_s


@dataclass(frozen=True, slots=True)
class EvictionPlan:
    """The models to evict before a load, in this order, and the free bytes afterwards."""

    fits: bool
    evict: tuple[str, ...] = ()
    free_bytes: int = 0


def plan_evictions(
    models: Sequence[ModelState],
    need_bytes: int,
    budget_bytes: int,
    *,
    beside: Iterable[str] = (),
) -> EvictionPlan:
    """Return the evictions before a load: idle, unpinned models, least recently used first.

    Models in `beside` stay, because the new model depends on them. If evicting every candidate
    would not free enough, nothing is evicted and `fits` is False.
    """
    kept = frozenset(beside)
    free = budget_bytes - sum(one.bytes for one in models)
    evict: list[ModelState] = []
    while free < need_bytes:
        able = _removable(models, evict, lambda one: one.idle and one.key not in kept)
        if not able:
            return EvictionPlan(fits=False, free_bytes=free)
        evict.append(able[0])
        free += able[0].bytes
    spared = _spared(evict, free - need_bytes)
    evicted = [one for one in evict if one not in spared]
    return EvictionPlan(
        fits=True,
        evict=tuple(one.key for one in evicted),
        free_bytes=free - sum(one.bytes for one in spared),
    )


def _removable(
    models: Sequence[ModelState],
    evicted: Sequence[ModelState],
    may_go: Callable[[ModelState], bool],
) -> list[ModelState]:
    """Return the candidates after `evicted`: least recently used first, and no base model in
    use."""
    staying = [one for one in models if one not in evicted]
    needed = {key for one in staying for key in one.depends_on}
    able = [one for one in staying if one.key not in needed and may_go(one)]
    return sorted(able, key=lambda one: (one.last_used_s, one.key))


def _all_removable(
    models: Sequence[ModelState], may_go: Callable[[ModelState], bool]
) -> list[ModelState]:
    evicted: list[ModelState] = []
    while able := _removable(models, evicted, may_go):
        evicted += able
    return evicted


def _spared(evict: list[ModelState], surplus: int) -> list[ModelState]:
    """Return models that can stay, because a large model later in the list frees enough bytes."""
    spared: list[ModelState] = []
    for one in reversed(evict[:-1]):
        needs_evicted = any(other.key in one.depends_on for other in evict if other not in spared)
        if one.bytes <= surplus and not needs_evicted:
            spared.append(one)
            surplus -= one.bytes
    return spared


def expired(models: Sequence[ModelState], now_s: float) -> tuple[str, ...]:
    """Return idle, unpinned models whose keep-alive time is over, dependents first."""
    evicted: list[ModelState] = []
    while able := _removable(models, evicted, lambda one: one.idle and one.expires_s <= now_s):
        evicted += able
    return tuple(one.key for one in evicted)


def next_expiry_s(models: Sequence[ModelState]) -> float | None:
    """Return the time at which the next idle model expires, or None."""
    able = _removable(models, (), lambda one: one.idle and one.expires_s < math.inf)
    return min((one.expires_s for one in able), default=None)


def evicted_for(name: str) -> str:
    """Return the reason for an eviction before the load of another model."""
    return f"{name} needed its memory"


def memory_is_short(level: str) -> str:
    """Return the reason for an eviction under memory pressure."""
    return f"the machine ran short of memory ({level} pressure)"


WARNING_LASTS_S = 10.0
"""A warning that lasts so long evicts models. Dropping caches often ends a shorter one."""


def under_pressure(
    models: Sequence[ModelState], level: str, lasted_s: float = math.inf
) -> tuple[str, ...]:
    """Return the models to evict when the machine runs short of memory.

    At a "warning" that lasts, the least recently used idle model, at "critical" all idle ones;
    never a pinned one or one in use. A model that is kept forever goes only if no other can.
    """
    if level == "warning" and lasted_s < WARNING_LASTS_S:
        return ()
    evicted = _all_removable(models, lambda one: one.idle and one.keep_alive_s < math.inf)
    if not evicted:
        evicted = _all_removable(models, lambda one: one.idle)
    if level == "critical":
        return tuple(one.key for one in evicted)
    return tuple(one.key for one in evicted[:1]) if level == "warning" else ()
