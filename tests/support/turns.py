"""Taking turns: tests run in several processes, and some use what there is only one of."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from support.places import compiled


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Hold what `name` stands for alone, among all processes that run tests for this user."""
    with (compiled() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
