"""The machine of a run, and the memory and CPU time of processes."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxd.daemon.blas import find_blas

ROOT = Path(__file__).resolve().parents[2]


def about(device: str) -> dict[str, Any]:
    """Return the machine, the versions and the date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_bytes": memory_bytes(),
            "device": device,
            "blas": blas() if device == "cpu" else "",
            "load_before": [round(one, 2) for one in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **versions(), "commit": commit()},
    }


def blas() -> str:
    """Return the name of the BLAS that is used on a CPU."""
    found = find_blas()
    if found is None:
        return "" if sys.platform == "darwin" else " with the reference BLAS"
    return f" with {found.name}"


def versions() -> dict[str, str]:
    found = {}
    for name in ("mlxd", "mlx", "mlx-lm", "msgpack", "tokenizers", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    try:
        return _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = re.findall(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return names[0] if names else platform.machine()


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; its proportional share where the system reports it.

    With proportional shares, pages of shared libraries count once over all processes.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * int(re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE)[0])
    except (OSError, IndexError):
        return rss_bytes(pid)


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, including all shared pages."""
    return 1024 * int(_output(["ps", "-o", "rss=", "-p", str(pid)]))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    try:
        return sum(
            int((task / "schedstat").read_text().split()[0]) / 1e9
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
    except OSError:  # macOS: minutes:seconds.hundredths
        parts = _output(["ps", "-o", "time=", "-p", str(pid)]).split(":")
        return sum(float(part) * 60.0**place for place, part in enumerate(reversed(parts)))


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
