"""Determines the machine's memory, the budget for models, and memory pressure."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CGROUP_ROOT = "/sys/fs/cgroup"
CGROUP_V1_LIMIT = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
UNLIMITED_BYTES = 2**60
"""cgroup v1 represents "no limit" by a huge number."""
SHARE_OF_WORKING_SET = 0.85
"""Share of macOS's recommended working set. Wiring all of it has caused kernel panics."""
SHARE_OF_MEMORY = 0.75
"""Share of memory on machines without a GPU limit. Other programs need the rest."""
PRESSURE_LEVELS = {1: "normal", 2: "warning", 4: "critical"}  # kern.memorystatus_vm_pressure_level
PSI_FILE = "/proc/pressure/memory"
PSI_WARNING_PERCENT, PSI_CRITICAL_PERCENT = 10.0, 30.0
"""Share of the last ten seconds in which a task waited for memory."""

ReadText = Callable[[str], str]


def read_text(path: str) -> str:
    """Return the text of a file, or "" if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def total_bytes(read: ReadText = read_text) -> int:
    """Return the machine's memory, or the container's limit if that is lower."""
    if sys.platform == "darwin":
        return sysctl_int("hw.memsize") or 8 * 2**30
    lines = (line.partition(":") for line in read("/proc/meminfo").splitlines())
    found = (int(rest.split()[0]) * 1024 for name, _, rest in lines if name == "MemTotal")
    total = next(found, 8 * 2**30)
    for path in cgroup_limits(read):
        text = read(path).strip()
        if text.isdigit() and int(text) < UNLIMITED_BYTES:
            total = min(total, int(text))
    return total


def cgroup_limits(read: ReadText) -> list[str]:
    """Return the files with the memory limits of this process and its parent groups.

    In a container the process's group is the root. Under systemd it is a slice below it.
    """
    paths = [f"{CGROUP_ROOT}/memory.max", CGROUP_V1_LIMIT]
    for line in read("/proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            place = CGROUP_ROOT
            for part in line[4:].split("/"):
                place = f"{place}/{part}"
                paths.append(f"{place}/memory.max")
    return paths


def default_budget_bytes(device_info: dict[str, Any], read: ReadText = read_text) -> int:
    """Return the default memory for weights and KV caches together."""
    recommended = device_info.get("max_recommended_working_set_size")
    if recommended:
        return int(recommended * SHARE_OF_WORKING_SET)
    size = device_info.get("memory_size") or device_info.get("total_memory")
    total = total_bytes(read)
    return int(min(int(size), total) * SHARE_OF_MEMORY if size else total * SHARE_OF_MEMORY)


def pressure(psi_file: str = PSI_FILE, read: ReadText = read_text) -> str:
    """Return "normal", "warning" or "critical". `psi_file` is only read on Linux."""
    if sys.platform == "darwin":
        level = sysctl_int("kern.memorystatus_vm_pressure_level")
        return PRESSURE_LEVELS.get(level or 1, "normal")
    some = psi_percent(read(psi_file))
    if some >= PSI_CRITICAL_PERCENT:
        return "critical"
    return "warning" if some >= PSI_WARNING_PERCENT else "normal"


def psi_percent(text: str) -> float:
    """Return `avg10` of the line `some` of Linux's pressure stall information; 0 if absent."""
    for line in text.splitlines():
        if line.startswith("some "):
            for field in line.split()[1:]:
                name, _, value = field.partition("=")
                if name == "avg10":
                    try:
                        return float(value)
                    except ValueError:
                        return 0.0
    return 0.0


def sysctl_int(name: str) -> int | None:
    """Return an integer of macOS's sysctl, or None."""
    library = ctypes.util.find_library("c")
    if library is None:
        return None
    try:
        libc = ctypes.CDLL(library)
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        status = libc.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return None
    return int(value.value) if status == 0 else None
