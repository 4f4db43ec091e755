"""The number of hub workers is limited, and a failed start is reported to the caller."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.front.hub import WORKERS_MAX, HubWorkers
from mlxd.protocol.errors import Overloaded


def outcome(workers: HubWorkers) -> Any:
    job = {"task": "pull", "repo": "acme/none", "revision": "main", "cache_dir": "/nowhere"}
    return asyncio.run(workers.run(job, lambda _progress: None))


def test_too_many_hub_workers_are_refused(tmp_path: Path) -> None:
    workers = HubWorkers(tmp_path / "err", lambda *_given, **_named: None)
    workers.running = WORKERS_MAX
    with pytest.raises(Overloaded, match="downloads and conversions are running"):
        outcome(workers)
    assert workers.running == WORKERS_MAX


def test_a_hub_worker_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    workers = HubWorkers(tmp_path / "err", lambda *_given, **_named: None)
    with pytest.raises(Overloaded, match="could not be started"):
        outcome(workers)
    assert workers.running == 0
