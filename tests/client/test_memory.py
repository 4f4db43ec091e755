"""`mlx ps` and `mlx load`: what they print about a model in memory."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.client.cli import memory

MODEL = {"model": "pocket", "bytes": 12_000_000, "idle_s": 300.0, "keep_alive_s": 1800.0,
         "pinned": False, "requests": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expires"),
    [
        ({}, "in 25 minutes"),
        ({"idle_s": 1801.0}, "in 0 seconds"),
        ({"keep_alive_s": -1}, "never"),
        ({"pinned": True}, "never (pinned)"),
        ({"requests": 2, "idle_s": 0.0}, "30 minutes after use"),
    ],
)
def test_ps_prints_when_a_model_expires(changed: dict[str, Any], expires: str) -> None:
    row = memory.ps_row({**MODEL, **changed})
    assert row[3] == expires


def test_ps_prints_when_a_model_was_last_used() -> None:
    assert memory.ps_row(MODEL)[2] == "5 minutes ago"
    assert memory.ps_row({**MODEL, "requests": 2})[2] == "now, 2 requests"


@pytest.mark.parametrize(
    ("changed", "printed"),
    [
        ({}, "pocket (12.0 MB) loaded in 0.5 s. It stays for 30 minutes after its last use."),
        ({"was_loaded": True, "pinned": True},
         "pocket (12.0 MB) was already in memory. It stays pinned until it is unloaded."),
        ({"keep_alive_s": -1}, "pocket (12.0 MB) loaded in 0.5 s. It stays until it is unloaded."),
    ],
)  # fmt: skip
def test_load_prints_whether_the_model_was_loaded_and_how_long_it_stays(
    changed: dict[str, Any], printed: str
) -> None:
    result = {**MODEL, "load_s": 0.5, "was_loaded": False, **changed}
    assert memory.load_message(result) == printed


def test_load_prints_the_result_of_an_older_daemon() -> None:
    result = {"model": "pocket", "bytes": 12_000_000, "load_s": 0.5}
    assert memory.load_message(result) == "pocket: 12.0 MB in 0.5 s"
