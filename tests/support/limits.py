"""Limits the memory, threads and descriptors of a running process. Linux only."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.daemon_process import Daemon, Peer, running_daemon
from support.needs import program

OTHER_USER = 54321
"""A user without processes. The kernel does not limit root's threads."""


def limit_memory(pid: int, room_bytes: int) -> None:
    """Let a process map at most `room_bytes` more than it has mapped now."""
    status = Path(f"/proc/{pid}/status").read_text()
    mapped = int(status.split("VmSize:")[1].split()[0]) * 1024
    _set(pid, resource.RLIMIT_AS, mapped + room_bytes)


def limit_descriptors(pid: int) -> None:
    """Let a process open no more descriptors. A new one would get the lowest free number."""
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    _set(pid, resource.RLIMIT_NOFILE, next(n for n in itertools.count() if n not in used))


def lift(pid: int, which: int) -> None:
    """Remove a limit that was set here."""
    _set(pid, which, resource.prlimit(pid, which)[1])


def _set(pid: int, which: int, value: int) -> None:
    # Only the soft limit, which can be lifted again.
    resource.prlimit(pid, which, (value, resource.prlimit(pid, which)[1]))


def start_no_threads(pid: int, *, may: bool = False) -> None:
    """Let a process start no more threads and processes, or let it start them again."""
    hard = Path(f"/proc/{pid}/limits").read_text().split("Max processes")[1].split()[1]
    value = f"{hard if may else 1}:"  # Only the soft limit, which can be lifted again.
    subprocess.run([*_wrapper(), "prlimit", f"--pid={pid}", f"--nproc={value}"], check=True)


@contextmanager
def unprivileged_daemon(**settings: str) -> Iterator[tuple[Daemon, Peer]]:
    """Run a daemon as a user whose threads the kernel limits; yield it and a connection."""
    # Outside of pytest's folder, which the other user cannot enter.
    with tempfile.TemporaryDirectory(prefix="mlxd-") as temporary:
        if _wrapper():
            os.chown(temporary, OTHER_USER, OTHER_USER)
        folder = Path(temporary)
        with running_daemon(folder, _wrapper(), TMPDIR=temporary, **settings) as daemon:
            with _acting_as_other_user():
                peer = daemon.peer()
            with peer:
                yield daemon, peer


def _wrapper() -> list[str]:
    """Return the command prefix that runs a command as the other user, who may read all files."""
    if os.geteuid() != 0:
        return []
    program("setpriv")
    capabilities = "-all,+dac_override,+dac_read_search"
    return [
        str(shutil.which("setpriv")), f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}",
        "--clear-groups", f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}",
    ]  # fmt: skip


@contextmanager
def _acting_as_other_user() -> Iterator[None]:
    """Connect as the other user, because the daemon checks the uid of its peer."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(OTHER_USER)
    try:
        yield
    finally:
        os.seteuid(0)
