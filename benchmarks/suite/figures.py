"""Medians, quartiles, and ratios of values from the same round. Pure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Summary:
    """A median with its quartiles."""

    median: float
    low: float
    high: float
    count: int


def quantile(values: Sequence[float], share: float) -> float:
    """Return the quantile `share` of the values, interpolated linearly between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def summary(values: Sequence[float]) -> Summary:
    return Summary(
        statistics.median(values), quantile(values, 0.25), quantile(values, 0.75), len(values)
    )


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio of each pair of values from the same round, up to the shorter list."""
    return [one / other for one, other in zip(values, base, strict=False) if other]


def ratio(values: Sequence[float], base: Sequence[float]) -> Summary:
    """Return the median ratio per pair, with its quartiles."""
    return summary(ratios(values, base))


def rounds(budget_s: float, least: int, most: int) -> Iterator[int]:
    """Count rounds: at least `least`, then up to `most` within `budget_s`.

    Rounds that take much longer than planned end the measurement before `least` is reached.
    """
    started = time.monotonic()
    for turn in range(most):
        spent = time.monotonic() - started
        if turn >= least and spent + spent / turn > budget_s:
            return
        if turn and spent > PATIENCE * budget_s:
            return
        yield turn


def in_turn(items: Sequence[T], turn: int) -> list[T]:
    """Return the items, starting with a different one each round, so that none is always first."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]
