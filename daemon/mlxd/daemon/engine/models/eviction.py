"""Which models may stay in memory. Pure: facts in, decisions out, time only as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

KEEP_ALIVE_OVER = "its keep-alive time ended"


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model. `requests` counts jobs that need it; `keep_alive_s` may be infinite.

    `rests_on` names models whose weights it shares: they stay as long as it does.
    """

    key: str
    bytes: int
    last_used_s: float
    keep_alive_s: float = math.inf
    pinned: bool = False
    requests: int = 0
    rests_on: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
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
    residents: Sequence[Resident],
    need_bytes: int,
    budget_bytes: int,
    *,
    beside: Iterable[str] = (),
) -> Plan:
    """Return the evictions that make room: idle, unpinned, least recently used first.

    Those in `beside` stay, since the new one is of no use without them. If even all evictions
    were not enough, nothing is evicted and `fits` is False.
    """
    kept = frozenset(beside)
    free = budget_bytes - sum(one.bytes for one in residents)
    evict: list[Resident] = []
    while free < need_bytes:
        able = _removable(residents, evict, lambda one: one.idle and one.key not in kept)
        if not able:
            return Plan(fits=False, free_bytes=free)
        evict.append(able[0])
        free += able[0].bytes
    spared = _spared(evict, free - need_bytes)
    gone = [one for one in evict if one not in spared]
    return Plan(
        fits=True,
        evict=tuple(one.key for one in gone),
        free_bytes=free - sum(one.bytes for one in spared),
    )


def _removable(
    residents: Sequence[Resident], gone: Sequence[Resident], may_go: Callable[[Resident], bool]
) -> list[Resident]:
    """Return what may go next, beside `gone`: least recently used first, nothing that is needed."""
    staying = [one for one in residents if one not in gone]
    needed = {key for one in staying for key in one.rests_on}
    able = [one for one in staying if one.key not in needed and may_go(one)]
    return sorted(able, key=lambda one: (one.last_used_s, one.key))


def _spared(evict: list[Resident], surplus: int) -> list[Resident]:
    """Return what need not go after all: a large model later in the list may make enough room."""
    spared: list[Resident] = []
    for one in reversed(evict[:-1]):
        rests_on_gone = any(other.key in one.rests_on for other in evict if other not in spared)
        if one.bytes <= surplus and not rests_on_gone:
            spared.append(one)
            surplus -= one.bytes
    return spared


def expired(residents: Sequence[Resident], now_s: float) -> tuple[str, ...]:
    """Return idle, unpinned models whose keep-alive time is over, what rests on others first."""
    gone: list[Resident] = []
    while able := _removable(residents, gone, lambda one: one.idle and one.expires_s <= now_s):
        gone += able
    return tuple(one.key for one in gone)


def next_expiry_s(residents: Sequence[Resident]) -> float | None:
    """Return when the next idle model's time is over, or None."""
    able = _removable(residents, (), lambda one: one.idle and one.expires_s < math.inf)
    return min((one.expires_s for one in able), default=None)


def made_room_for(name: str) -> str:
    """Return the reason for an eviction that made room for another model."""
    return f"{name} needed its memory"


def memory_is_short(level: str) -> str:
    """Return the reason for an eviction under memory pressure."""
    return f"the machine ran short of memory ({level} pressure)"


def under_pressure(residents: Sequence[Resident], level: str) -> tuple[str, ...]:
    """Return what to give back when the machine runs short of memory.

    At "warning" the least recently used idle model, at "critical" all idle ones; never a pinned
    or busy one.
    """
    gone: list[Resident] = []
    while able := _removable(residents, gone, lambda one: one.idle):
        gone += able
    if level == "critical":
        return tuple(one.key for one in gone)
    return tuple(one.key for one in gone[:1]) if level == "warning" else ()
