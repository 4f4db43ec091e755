"""Reads the CPU times of the engine's threads. Linux reports them in /proc, macOS does not."""

from __future__ import annotations

import os
from pathlib import Path

from mlxd.daemon.front.engine.watchdog import ProcessTimes, ThreadTimes

PROC = Path("/proc")
NANO = 1e-9
COMPILERS = frozenset({"sh", "g++", "c++", "clang++", "cc1plus", "as", "ld", "collect2"})
"""MLX runs the compiler through a shell, during a step that needs a new kernel."""


def process_times(pid: int, proc: Path = PROC) -> ProcessTimes | None:
    """Return the times of a process, or None if it has ended or the system does not report them."""
    threads, states = _threads(proc / str(pid))
    if not threads:
        return None
    blocked = "D" in states or _waits_for_compiler(pid, proc)
    return ProcessTimes(threads, main=pid, blocked=blocked, runnable="R" in states)


def _waits_for_compiler(pid: int, proc: Path) -> bool:
    """Return whether a compiler is a child of the engine itself.

    The kernel builder's compilers are not children of the engine, which does not wait for them.
    """
    children: list[str] = []
    try:
        for task in os.listdir(proc / str(pid) / "task"):
            text = (proc / str(pid) / "task" / task / "children").read_text()
            children += text.split()
    except OSError:
        return False
    stats = [_stat(proc / child / "stat") for child in children]
    return any(stat is not None and stat[0] in COMPILERS for stat in stats)


def _stat(path: Path) -> tuple[str, list[str]] | None:
    """Return the program's name and the fields after it, or None if the process has ended."""
    try:
        head, _, rest = path.read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    return head.partition("(")[2], rest.split()


def _threads(process: Path) -> tuple[dict[int, ThreadTimes], set[str]]:
    """Return the times of all threads by thread id, and the set of their states."""
    threads: dict[int, ThreadTimes] = {}
    states: set[str] = set()
    try:
        for name in os.listdir(process / "task"):
            folder = process / "task" / name
            cpu, queued = folder.joinpath("schedstat").read_text().split()[:2]
            threads[int(name)] = ThreadTimes(int(cpu) * NANO, int(queued) * NANO)
            if stat := _stat(folder / "stat"):
                states.add(stat[1][0])
    except OSError:
        pass  # The thread or the process ended while it was read.
    return threads, states
