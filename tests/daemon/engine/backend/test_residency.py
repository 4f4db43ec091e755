"""The weights of a Mac stay resident, unless the user decides otherwise."""

from __future__ import annotations

import pytest

from mlxd.daemon.engine.backend.residency import REFRESH_VARIABLE, keep_resident
from mlxd.daemon.engine.options import EngineOptions


@pytest.mark.parametrize(
    ("platform", "interval_ms", "before", "after"),
    [
        ("darwin", EngineOptions().residency_refresh_ms, {}, {REFRESH_VARIABLE: "1000"}),
        ("darwin", 250, {}, {REFRESH_VARIABLE: "250"}),
        ("darwin", 1000, {REFRESH_VARIABLE: "0"}, {REFRESH_VARIABLE: "0"}),
        ("darwin", 0, {}, {}),
        ("linux", 1000, {}, {}),
    ],
)
def test_mlx_refreshes_residency_on_macos_unless_the_user_set_it(
    platform: str, interval_ms: int, before: dict[str, str], after: dict[str, str]
) -> None:
    environ = dict(before)
    keep_resident(interval_ms, environ, platform)
    assert environ == after
