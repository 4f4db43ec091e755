"""Detects upgraded code, and sleep of the machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import mlxd
from mlxd.daemon.isolation import python_command

WAKE_CHECK_S = 5.0
ASLEEP_S = 10.0
"""Minimum pause, in seconds, that counts as sleep of the machine."""
TRIAL_TIMEOUT_S = 30.0


def code_folders() -> list[Path]:
    """Return the folders of mlxd's code. A namespace package has several."""
    return [Path(place) for place in mlxd.__path__]


def code_state(folders: Iterable[Path]) -> str:
    """Return a fingerprint that changes when any Python file below `folders` changes."""
    digest = hashlib.blake2b(digest_size=12)
    for folder in folders:
        for place, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if name.endswith(".py"):
                    status = os.stat(os.path.join(place, name))
                    digest.update(f"{place}/{name} {status.st_mtime_ns} {status.st_size}".encode())
    return digest.hexdigest()


class UpgradeWatch:
    """Detects that the code on disk differs from the running code and is stable."""

    def __init__(self, state: Callable[[], str] | None = None) -> None:
        folders = code_folders()
        self._state = state or (lambda: code_state(folders))
        self._running = self._seen = self._state()
        self._refused = ""

    def due(self) -> bool:
        """Return whether the code on disk has changed, but not since the last call."""
        try:
            now = self._state()
        except OSError:
            return False  # an installation is in progress
        settled, self._seen = now == self._seen, now
        return settled and now not in (self._running, self._refused)

    def refuse(self) -> None:
        """Ignore the present code on disk, because it does not start."""
        self._refused = self._seen


def suspended_s() -> float:
    """Return the total seconds of sleep since a fixed point in time."""
    # Not the wall clock, which may be set. Each system has its own names for the clock that runs
    # during sleep and the one that stops.
    if sys.platform == "darwin":
        clocks = time.CLOCK_MONOTONIC_RAW, time.CLOCK_UPTIME_RAW
    else:
        clocks = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    return time.clock_gettime(clocks[0]) - time.clock_gettime(clocks[1])


class SleepWatch:
    """Detects sleep of the machine since the last call."""

    def __init__(self, suspended: Callable[[], float] = suspended_s) -> None:
        self._suspended = suspended
        self._before = suspended()

    def woke(self) -> bool:
        now = self._suspended()
        slept, self._before = now - self._before, now
        return slept > ASLEEP_S


async def works() -> bool:
    """Return whether the code on disk starts with the arguments of this process."""
    command = [*python_command("mlxd.daemon.cli"), *sys.argv[1:], "--check"]
    try:
        done = await asyncio.to_thread(
            subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=TRIAL_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


async def watch(
    *,
    upgrade_check_s: float,
    idle: Callable[[], bool],
    upgrade: Callable[[], None],
    refused: Callable[[], None],
    woke: Callable[[], Awaitable[None]],
    failed: Callable[[Exception], None],
    sleep: SleepWatch,
    upgrades: UpgradeWatch,
    also: Callable[[], Awaitable[None]],
) -> None:
    """Call `woke` after every sleep, and `upgrade` when the code has changed and the daemon is
    idle.

    Await `also` every few seconds. Pass exceptions of any of these to `failed`, and continue.
    """
    checked_s = time.monotonic()
    period_s = min(WAKE_CHECK_S, upgrade_check_s or WAKE_CHECK_S)

    async def wake() -> None:
        if sleep.woke():
            await woke()

    async def look_for_upgrade() -> None:
        nonlocal checked_s
        if not upgrade_check_s or time.monotonic() - checked_s < upgrade_check_s or not idle():
            return
        checked_s = time.monotonic()
        if upgrades.due():
            if await works():
                if idle():
                    upgrade()
            else:
                upgrades.refuse()
                refused()

    while True:
        await asyncio.sleep(period_s)
        for duty in (also, wake, look_for_upgrade):
            try:
                await duty()
            except Exception as exc:  # a failure of one check must not end the others
                failed(exc)
