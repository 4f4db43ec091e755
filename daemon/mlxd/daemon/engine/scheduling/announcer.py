"""Tells the front what the compute thread is about to do, so that it can tell slow from stuck.

The compute thread cannot say anything while it is in MLX, so it says beforehand how long that
normally takes on this model. Only what changes is sent: while a model decodes, nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

COMPUTE, LOAD, WAIT = "compute", "load", "wait"
EXPECTED_LEAST_S = 1.0
"""Shorter is all the same: what makes a short step long has nothing to do with the model."""
LOWER_BY = 4
"""How much shorter a step must be than what was said last, for that to be worth a message."""


class Announcer:
    """`notify(method, params)` reaches the front."""

    def __init__(self, notify: Callable[[str, dict[str, Any]], None]) -> None:
        self._notify = notify
        self._what = WAIT
        self._expected_s: float | None = None

    @property
    def waiting(self) -> bool:
        return self._what == WAIT

    def wait(self) -> None:
        """Say that the compute thread has nothing to do."""
        if not self.waiting:
            self._say(WAIT, None)

    def load(self) -> None:
        """Say that the next slice of weights is read. Always sent: it is progress."""
        self._say(LOAD, None)

    def compute(self, expected_s: float) -> None:
        """Say that a step or chunk comes next, which takes so long by what was measured."""
        rounded_s = rounded(expected_s)
        said_s = self._expected_s
        known = self._what == COMPUTE and said_s is not None
        if known and said_s is not None and said_s / LOWER_BY < rounded_s <= said_s:
            return
        self._say(COMPUTE, rounded_s)

    def _say(self, what: str, expected_s: float | None) -> None:
        self._what, self._expected_s = what, expected_s
        self._notify("doing", {"what": what, "expected_s": expected_s})


def rounded(seconds: float) -> float:
    """Return the next power of two, so that small differences are none."""
    return float(2 ** math.ceil(math.log2(max(seconds, EXPECTED_LEAST_S))))
