"""How many files a process of mlxd may open."""

from __future__ import annotations

import ctypes
import ctypes.util
import resource
import sys

WANTED_FILES = 65_536


def reachable(soft: int, hard: int, per_process: int | None = None) -> int:
    """Return the limit of open files that a process can have, from its present limits.

    `per_process` is what macOS allows whatever the limits say. None: ask the kernel.
    """
    if per_process is None:
        per_process = _per_process()
    most = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    raised = most if soft == resource.RLIM_INFINITY else max(soft, most)
    return min(raised, per_process)


def _per_process() -> int:
    """Return macOS's limit. setrlimit accepts more (proc_limitgetcur_nofile in xnu)."""
    if sys.platform == "darwin" and (limit := sysctl_int("kern.maxfilesperproc")):
        return limit
    return sys.maxsize


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
