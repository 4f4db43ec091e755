"""Fails a test run that leaves processes behind, lists them, and kills them.

Every process of a run inherits a marker variable, which Linux shows in /proc.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

MARK = "TESTS_OF_MLXD"
GRACE_S = 30.0
"""Seconds to wait for processes that are about to exit, such as a compiler of a kernel builder."""
LOOK_S = 0.2
LEFT = pytest.StashKey[dict[int, str]]()


def marked(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the marker, for environments built from scratch."""
    return {**environ, **({MARK: os.environ[MARK]} if MARK in os.environ else {})}


def left_behind(mark: str, proc: Path = Path("/proc")) -> dict[int, str]:
    """Return the running processes with this marker, and their command lines."""
    wanted = f"{MARK}={mark}".encode()
    own = {os.getpid(), os.getppid()}
    return {
        pid: command
        for pid, command, environ in _processes(proc)
        if pid not in own and wanted in environ.split(b"\0")
    }


def _processes(proc: Path) -> Iterator[tuple[int, str, bytes]]:
    for folder in proc.glob("[0-9]*"):
        try:
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            if command:  # a zombie has no command line and no environment
                yield int(folder.name), command.strip(), (folder / "environ").read_bytes()
        except OSError:
            continue  # it has exited, or belongs to another user


def still_there(mark: str, grace_s: float = GRACE_S) -> dict[int, str]:
    """Return the processes that are still running after a grace period."""
    deadline = time.monotonic() + grace_s
    while (left := left_behind(mark)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return left


# ---- called by pytest


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(MARK, f"{os.getpid()}-{time.time_ns()}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # only the main process checks
    grace_s = float(os.environ.get("LEFTOVERS_GRACE_S", GRACE_S))
    left = still_there(os.environ[MARK], grace_s)
    session.config.stash[LEFT] = left
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left = config.stash.get(LEFT, {})
    if left:
        terminalreporter.section("processes left behind, and killed", red=True)
    for pid, command in left.items():
        terminalreporter.write_line(f"{pid} {command[:200]}")
