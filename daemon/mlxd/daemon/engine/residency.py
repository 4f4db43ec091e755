"""Which models may stay in memory. Pure: facts in, decisions out, time only as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `requests` counts jobs that need it; `keep_alive_s` may be infinite."""

    key: str
    bytes: int
    last_used_s: float
    keep_alive_s: float = math.inf
    pinned: bool = False
    requests: int = 0
    kv_bytes: int = 0

    @property
    def evictable(self) -> bool:
        return not self.pinned and self.requests == 0

    @property
    def expires_s(self) -> float:
        return self.last_used_s + self.keep_alive_s


@dataclass(frozen=True, slots=True)
class Plan:
    """What must go before a load, in this order; `free_bytes` is what is free afterwards."""

    fits: bool
    evict: tuple[str, ...] = ()
    free_bytes: int = 0


def plan_load(
    residents: Sequence[Resident], need_bytes: int, budget_bytes: int, now_s: float
) -> Plan:
    """Return the evictions that make room: idle, unpinned, least recently used first.

    If even all of them were not enough, nothing is evicted and `fits` is False.
    """
    free = budget_bytes - sum(one.bytes + one.kv_bytes for one in residents)
    evict: list[str] = []
    for one in sorted(residents, key=lambda one: (one.last_used_s, one.key)):
        if free >= need_bytes:
            break
        if one.evictable:
            evict.append(one.key)
            free += one.bytes + one.kv_bytes
    if free < need_bytes:
        return Plan(fits=False, free_bytes=free)
    return Plan(
        fits=True, evict=tuple(_needed(residents, evict, free, need_bytes)), free_bytes=free
    )


def _needed(
    residents: Sequence[Resident], evict: list[str], free: int, need_bytes: int
) -> list[str]:
    """Spare what need not go after all: a large model later in the list may make enough room."""
    size = {one.key: one.bytes + one.kv_bytes for one in residents}
    kept = list(evict)
    for key in reversed(evict[:-1]):
        if free - size[key] >= need_bytes:
            kept.remove(key)
            free -= size[key]
    return kept


def expired(residents: Sequence[Resident], now_s: float) -> tuple[str, ...]:
    """Return idle, unpinned models whose keep-alive time is over."""
    return tuple(one.key for one in residents if one.evictable and one.expires_s <= now_s)


def next_expiry_s(residents: Sequence[Resident]) -> float | None:
    """Return when the next idle model's time is over, or None."""
    times = [one.expires_s for one in residents if one.evictable and one.expires_s < math.inf]
    return min(times, default=None)


def under_pressure(residents: Sequence[Resident], level: str, now_s: float) -> tuple[str, ...]:
    """Return what to give back when the machine runs short of memory.

    At "warning" the least recently used idle model, at "critical" all idle ones; never a pinned
    or busy one.
    """
    idle = sorted(
        (one for one in residents if one.evictable), key=lambda one: (one.last_used_s, one.key)
    )
    if level == "critical":
        return tuple(one.key for one in idle)
    if level == "warning":
        return tuple(one.key for one in idle[:1])
    return ()
