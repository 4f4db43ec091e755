"""Memory, descriptors and threads of the daemon's processes, and the machine they run on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Holding:
    """The resources of one process at one moment."""

    pid: int
    rss_mib: float
    descriptors: int
    threads: int
    children: int


@dataclass(frozen=True, slots=True)
class Rest:
    """The resources of both processes while no caller is connected."""

    at_s: float
    phase: str
    requests: int
    front: Holding
    engine: Holding | None

    def to_map(self) -> dict[str, Any]:
        return asdict(self)


def holding(pid: int) -> Holding:
    process = psutil.Process(pid)
    with process.oneshot():
        return Holding(
            pid,
            round(process.memory_info().rss / MIB, 1),
            process.num_fds(),
            process.num_threads(),
            len(process.children()),
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a figure may grow after the warm-up and still count as flat."""

    share: float
    rss_mib: float
    descriptors: int = 2
    threads: int = 2
    children: int = 0


JUDGED_RESTS = 4
"""A process with fewer samples has not finished its warm-up."""
FRONT = Tolerance(0.10, 8)
ENGINE = Tolerance(0.10, 64)  # the allocator keeps memory of prompts of many lengths


def growth(name: str, rests: list[Holding], allowed: Tolerance) -> tuple[dict[str, Any], list[str]]:
    """Compare the last sample of a process with the first one after its warm-up.

    `rests` are samples of one process. Returns figures, and the resources that grew too much.
    """
    if len(rests) < JUDGED_RESTS:
        return {}, []
    # The first sample follows the process's first callers, when caches are still filling.
    first, last = rests[1], rests[-1]
    limit = first.rss_mib * (1 + allowed.share) + allowed.rss_mib
    grown = []
    if last.rss_mib > limit:
        grown.append(f"{name}: memory grew from {first.rss_mib} to {last.rss_mib} MiB")
    for what in ("descriptors", "threads", "children"):
        before, after = getattr(first, what), getattr(last, what)
        if after > before + getattr(allowed, what):
            grown.append(f"{name}: {what} grew from {before} to {after}")
    figures = {"rests": len(rests), "first": asdict(first), "last": asdict(last),
               "rss_limit_mib": round(limit, 1)}  # fmt: skip
    return figures, grown


def same_process(rests: list[Rest], which: str) -> list[Holding]:
    """Return the measurements of the process that ran at the end, from its first rest on."""
    found = [getattr(rest, which) for rest in rests if getattr(rest, which) is not None]
    return [one for one in found if one.pid == found[-1].pid]


def hub_workers(front: int) -> list[psutil.Process]:
    """Return the front's child processes that download, convert or delete."""
    found = []
    for child in psutil.Process(front).children():
        with contextlib.suppress(psutil.Error):
            if "mlxd.daemon.hub" in child.cmdline():
                found.append(child)
    return found


def machine() -> dict[str, Any]:
    """Return the facts about the machine that a reader of the figures needs."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": sys.version.split()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit(root: Path) -> str:
    """Return the measured commit, or an empty text outside of a git checkout."""
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
