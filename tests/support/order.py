"""Runs the slowest files first, so that at the end of a run no process waits long for another."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SLOWEST = (
    "e2e/test_models.py",
    "e2e/test_stuck_engine.py",
)
"""Files that take more than ten seconds, the slowest first."""


def rank(item: pytest.Item) -> int:
    """Return the place of a test's file among the slowest ones. The others share the last."""
    name = item.path.relative_to(TESTS).as_posix()
    return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=rank)
