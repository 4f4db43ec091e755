"""The slowest files run first."""

from __future__ import annotations

import pytest

from support.order import SLOWEST, TESTS, rank


@pytest.mark.parametrize("name", SLOWEST)
def test_every_slow_file_exists(name: str) -> None:
    assert (TESTS / name).is_file()


def test_no_other_file_runs_before_a_slow_one(request: pytest.FixtureRequest) -> None:
    ranks = [rank(item) for item in request.session.items]
    assert ranks == sorted(ranks)
