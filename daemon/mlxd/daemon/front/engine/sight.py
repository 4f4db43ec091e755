"""What the system says of the engine's threads. Linux tells it in /proc; elsewhere it is None."""

from __future__ import annotations

import os
from pathlib import Path

from mlxd.daemon.front.engine.patience import Sight

PROC = Path("/proc")
NANO = 1e-9
COMPILERS = frozenset({"sh", "g++", "c++", "clang++", "cc1plus", "as", "ld", "collect2"})
"""MLX calls the compiler, by a shell, in the middle of a step that needs a new kernel."""


def look_at(pid: int, proc: Path = PROC) -> Sight | None:
    """Return what is seen of the engine's threads, and whether a compiler works for it."""
    tasks = _tasks(proc / str(pid))
    if not tasks:
        return None  # it has gone, or this kernel keeps no such record
    states = {state for _, _, state in tasks}
    return Sight(
        cpu_s=sum(ran for ran, _, _ in tasks),
        queued_s=sum(queued for _, queued, _ in tasks),
        held_up="D" in states or _compiles(pid, proc),
        ready="R" in states,
    )


def _compiles(pid: int, proc: Path) -> bool:
    """Whether the engine itself waits for a compiler. Its kernel builder has others of its own."""
    children = []
    try:
        for task in os.listdir(proc / str(pid) / "task"):
            text = (proc / str(pid) / "task" / task / "children").read_text()
            children += text.split()
    except OSError:
        return False
    seen = [_stat(proc / child / "stat") for child in children]
    return any(one is not None and one[0] in COMPILERS for one in seen)


def _stat(path: Path) -> tuple[str, list[str]] | None:
    """Return the program's name and the fields behind it; None where the process has gone."""
    try:
        head, _, rest = path.read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    return head.partition("(")[2], rest.split()


def _tasks(process: Path) -> list[tuple[float, float, str]]:
    """Return of each thread the seconds that it ran, those that it waited for a core, its state."""
    found = []
    try:
        for name in os.listdir(process / "task"):
            place = process / "task" / name
            ran, queued = place.joinpath("schedstat").read_text().split()[:2]
            seen = _stat(place / "stat")
            found.append((int(ran) * NANO, int(queued) * NANO, seen[1][0] if seen else ""))
    except OSError:
        pass  # it went in between
    return found
