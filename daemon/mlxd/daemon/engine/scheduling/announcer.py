"""Announces the compute thread's next activity to the front, which detects stuck engines with it.

The compute thread cannot send messages while it is inside MLX, so it announces beforehand how long
the step normally takes for this model. Only changes are sent, so a decoding model sends none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

COMPUTE, LOAD, WAIT = "compute", "load", "wait"
EXPECTED_LEAST_S = 1.0
"""Shortest time to announce. Delays of short steps do not depend on the model."""
SHORTER_FACTOR = 4
"""A shorter step is announced only if it is shorter than the last announced time by this factor."""


class Announcer:
    """`notify(method, params)` sends a notification to the front."""

    def __init__(self, notify: Callable[[str, dict[str, Any]], None]) -> None:
        self._notify = notify
        self._activity = WAIT
        self._expected_s: float | None = None

    @property
    def waiting(self) -> bool:
        return self._activity == WAIT

    def wait(self) -> None:
        """Announce that the compute thread has nothing to do."""
        if not self.waiting:
            self._announce(WAIT, None)

    def load(self) -> None:
        """Announce that the next slice of weights is read. Always sent, because it is progress."""
        self._announce(LOAD, None)

    def compute(self, expected_s: float) -> None:
        """Announce a decode step or prefill chunk that is expected to take `expected_s`."""
        rounded_s = rounded(expected_s)
        last_s = self._expected_s if self._activity == COMPUTE else None
        if last_s is not None and last_s / SHORTER_FACTOR < rounded_s <= last_s:
            return
        self._announce(COMPUTE, rounded_s)

    def _announce(self, activity: str, expected_s: float | None) -> None:
        self._activity, self._expected_s = activity, expected_s
        self._notify("activity", {"activity": activity, "expected_s": expected_s})


def rounded(seconds: float) -> float:
    """Round up to a power of two, so that small differences cause no message."""
    return float(2 ** math.ceil(math.log2(max(seconds, EXPECTED_LEAST_S))))
