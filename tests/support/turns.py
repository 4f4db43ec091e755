"""Exclusive use of a resource by tests, which run in several processes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from support.places import compiled


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Hold the resource `name` exclusively among all test processes of this user."""
    with (compiled() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
