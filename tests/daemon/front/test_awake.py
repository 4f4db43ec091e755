"""The power assertion: held while there is work, released when idle, gone with the daemon."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.config import Config
from mlxd.daemon.front.app import Front
from mlxd.daemon.front.awake import CAFFEINATE, Awake, awake_for
from mlxd.daemon.front.server.listener import open_listener
from mlxd.protocol.paths import resolve_paths
from support.places import own_environ
from support.waiting import PATIENCE_S, until

STAND_IN = """#!/bin/sh
# As caffeinate: stays until the process that -w names has ended.
echo "$*" >>"$0.calls"
while kill -0 "$3" 2>/dev/null; do sleep 0.05; done
"""


class Logged:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: str, *, level: str = "info", **fields: Any) -> None:
        self.lines.append(event)


@pytest.fixture
def caffeinate(tmp_path: Path) -> Path:
    program = tmp_path / "caffeinate"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return program


@pytest.fixture
def awake(caffeinate: Path) -> Iterator[Awake]:
    held = Awake([str(caffeinate), "-i", "-w", str(os.getpid())], Logged())
    yield held
    held.release()


def calls(caffeinate: Path) -> list[str]:
    file = Path(f"{caffeinate}.calls")
    return file.read_text().splitlines() if file.exists() else []


def test_one_assertion_is_held_while_there_is_work(awake: Awake, caffeinate: Path) -> None:
    assert awake.holding is False
    awake.keep(working=False)
    assert awake.holding is False
    for _ in range(3):
        awake.keep(working=True)
        assert awake.holding
    until(lambda: len(calls(caffeinate)) == 1, "caffeinate was not started")
    assert calls(caffeinate) == [f"-i -w {os.getpid()}"]
    awake.keep(working=False)
    assert awake.holding is False


def test_an_assertion_that_somebody_ended_is_held_again(awake: Awake, caffeinate: Path) -> None:
    awake.keep(working=True)
    until(lambda: len(calls(caffeinate)) == 1, "caffeinate was not started")
    assert awake.pid is not None
    os.kill(awake.pid, signal.SIGKILL)
    until(lambda: awake.holding is False, "the killed caffeinate still counts")
    awake.keep(working=True)
    until(lambda: len(calls(caffeinate)) == 2, "caffeinate was not started again")
    assert awake.holding


def test_a_machine_without_caffeinate_is_logged_once(tmp_path: Path) -> None:
    log = Logged()
    awake = Awake([str(tmp_path / "missing")], log)
    awake.keep(working=True)
    awake.keep(working=True)
    assert log.lines == ["the machine may sleep"]
    assert awake.holding is None


def test_only_macos_needs_it_and_a_setting_disables_it() -> None:
    on_mac = awake_for("darwin", enabled=True, log=Logged())
    assert on_mac.command == [CAFFEINATE, "-i", "-w", str(os.getpid())]
    assert on_mac.holding is False
    assert awake_for("darwin", enabled=False, log=Logged()).holding is None
    assert awake_for("linux", enabled=True, log=Logged()).holding is None


def test_it_ends_with_a_daemon_that_is_killed(caffeinate: Path) -> None:
    code = (
        "import os, sys, time; from mlxd.daemon.front.awake import Awake; "
        "a = Awake([sys.argv[1], '-i', '-w', str(os.getpid())], print); a.keep(working=True); "
        "print(a.pid, flush=True); sys.stdin.read()"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(caffeinate)], env=environ, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as daemon:  # fmt: skip
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        daemon.kill()
    until(lambda: not alive(pid), "caffeinate outlives the daemon")


def alive(pid: int) -> bool:
    try:
        # A zombie whose new parent has not reaped it yet has ended, too.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_front_holds_it_while_a_hub_worker_runs_and_releases_it_afterwards(
    tmp_path: Path, awake: Awake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxd.daemon.front.app.awake_for", lambda *_, **__: awake)
    monkeypatch.setattr("mlxd.daemon.front.upkeep.WAKE_CHECK_S", 0.02)
    paths = resolve_paths(own_environ(tmp_path))
    listener = open_listener(paths)

    async def story() -> None:
        front = Front(Config(preload=False), paths, listener)
        running = asyncio.ensure_future(front.run(None))
        for work in (True, False, True):
            front.services.hub.running = int(work)
            holds = functools.partial(lambda work: awake.holding is work, work)
            await asyncio.to_thread(until, holds, f"caffeinate runs: {work}")
        front.services.lifecycle.begin_shutdown(0.0)
        async with asyncio.timeout(PATIENCE_S):
            await running

    asyncio.run(story())
    listener.close()
    assert awake.holding is False
