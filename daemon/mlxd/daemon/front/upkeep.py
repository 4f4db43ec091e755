"""Looks after the daemon itself: a program that was upgraded, a machine that was asleep."""

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
"""A machine that stood still for this long has slept."""
TRIAL_TIMEOUT_S = 30.0


def code_folders() -> list[Path]:
    """Return the folders of the program's own code: a namespace package has several."""
    return [Path(place) for place in mlxd.__path__]


def code_state(folders: Iterable[Path]) -> str:
    """Return a word that changes when any Python file below `folders` does."""
    digest = hashlib.blake2b(digest_size=12)
    for folder in folders:
        for place, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if name.endswith(".py"):
                    status = os.stat(os.path.join(place, name))
                    digest.update(f"{place}/{name} {status.st_mtime_ns} {status.st_size}".encode())
    return digest.hexdigest()


class UpgradeWatch:
    """Says when other code lies on the disk than runs, and has stopped changing."""

    def __init__(self, state: Callable[[], str] | None = None) -> None:
        folders = code_folders()
        self._state = state or (lambda: code_state(folders))
        self._running = self._seen = self._state()
        self._refused = ""

    def due(self) -> bool:
        """Whether the code on the disk is another, and the same as when last asked."""
        try:
            now = self._state()
        except OSError:
            return False  # in the middle of an installation
        settled, self._seen = now == self._seen, now
        return settled and now not in (self._running, self._refused)

    def refuse(self) -> None:
        """Do not offer what is on the disk now again: it does not work."""
        self._refused = self._seen


def suspended_s() -> float:
    """Return the seconds for which the machine has been asleep, from some point in time on."""
    # Not by the time of day, which may be set. Each system names the clock that goes on in sleep,
    # and the one that stands still, in its own way.
    if sys.platform == "darwin":
        clocks = time.CLOCK_MONOTONIC_RAW, time.CLOCK_UPTIME_RAW
    else:
        clocks = time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC
    return time.clock_gettime(clocks[0]) - time.clock_gettime(clocks[1])


class SleepWatch:
    """Says when the machine has slept since it was last asked."""

    def __init__(self, suspended: Callable[[], float] = suspended_s) -> None:
        self._suspended = suspended
        self._before = suspended()

    def woke(self) -> bool:
        now = self._suspended()
        slept, self._before = now - self._before, now
        return slept > ASLEEP_S


async def works() -> bool:
    """Whether the program as it is on the disk would start, called as this one was."""
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
    """Call `woke` after every sleep, and `upgrade` once there is new code and nothing to do.

    `also` is awaited every few seconds. What any of it raises is told to `failed`; the watch goes
    on.
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
            except Exception as exc:  # one duty's failure must not end the others for good
                failed(exc)
