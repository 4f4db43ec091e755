"""The announcer reports the compute thread's activity to the front, in few messages."""

from __future__ import annotations

from typing import Any

from mlxd.daemon.engine.scheduling.announcer import Announcer, rounded


def test_only_changed_activity_is_announced() -> None:
    said: list[tuple[Any, Any]] = []
    announcer = Announcer(
        lambda _method, params: said.append((params["activity"], params["expected_s"]))
    )
    for expected_s in (0.01, 0.02, 0.5, 3.0, 2.5, 1.5, 0.01):
        announcer.compute(expected_s)
    announcer.wait()
    announcer.wait()
    assert said == [("compute", 1.0), ("compute", 4.0), ("compute", 1.0), ("wait", None)]


def test_every_slice_of_weights_is_announced() -> None:
    said: list[str] = []
    announcer = Announcer(lambda _method, params: said.append(params["activity"]))
    announcer.load()
    announcer.load()
    assert said == ["load", "load"]
    assert not announcer.waiting


def test_expected_durations_are_rounded_up_to_powers_of_two() -> None:
    assert [rounded(value) for value in (0.0, 1.0, 1.1, 5.0)] == [1.0, 1.0, 2.0, 8.0]
