"""The supervisor reports an engine that cannot be started."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.front.engine.supervisor import Supervisor
from mlxd.protocol.errors import EngineDied
from mlxd.protocol.messages import Message


class NoRequests:
    """A user of the engine that has nothing to compute."""

    busy = False

    def step(self, events: list[Any]) -> None:
        raise AssertionError(events)

    def engine_died(self, why: str, ready: bool) -> list[Message]:
        return []

    def resubmit(self) -> list[Message]:
        return []


def supervisor(folder: Path, command: list[str], logged: list[dict[str, Any]]) -> Supervisor:
    return Supervisor(
        command,
        folder / "engine.err",
        NoRequests(),
        progress_timeout_s=5,
        log=lambda event, **more: logged.append({"event": event, **more}),
    )


@pytest.mark.parametrize("command", [["/no/such/program"], ["not\0a\0name"]])
def test_an_engine_command_that_cannot_run_raises_engine_died(
    tmp_path: Path, command: list[str]
) -> None:
    logged: list[dict[str, Any]] = []

    async def ask() -> None:
        await supervisor(tmp_path, command, logged).call("load", {})

    with pytest.raises(EngineDied):
        asyncio.run(asyncio.wait_for(ask(), 60))
    assert [line["event"] for line in logged] == ["engine died", "engine died"]
