"""How many files a process may open, from the limits of Linux and of macOS."""

from __future__ import annotations

import resource
import sys

import pytest

from mlxd.daemon.limits import WANTED_FILES, reachable

INFINITE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "per_process", "expected"),
    [
        (1024, 4096, sys.maxsize, 4096),
        (1024, INFINITE, sys.maxsize, WANTED_FILES),
        (256, INFINITE, 61_440, 61_440),  # macOS: setrlimit accepts 65536, the kernel gives less
        (256, 10_240, 61_440, 10_240),
        (100_000, 200_000, sys.maxsize, 100_000),  # never lowered
        (INFINITE, INFINITE, sys.maxsize, WANTED_FILES),
        (256, 256, sys.maxsize, 256),
    ],
)
def test_the_reachable_limit_follows_from_the_limits(
    soft: int, hard: int, per_process: int, expected: int
) -> None:
    assert reachable(soft, hard, per_process) == expected
