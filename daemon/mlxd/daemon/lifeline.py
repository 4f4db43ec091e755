"""Kills child processes when the daemon ends, even if they are stuck.

A child that is stuck in native code, or stopped, can neither read its link nor handle a signal. On
Linux the kernel sends it SIGKILL when its parent ends (`PR_SET_PDEATHSIG`). macOS has no such
signal, and a kqueue in the child needs the child's interpreter, which a native call may block.
There a shell watches a pipe that only the daemon holds, and kills the child when the pipe closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h
NEEDS_GUARD = not sys.platform.startswith("linux")
ORPHANED = 1
"""Exit status of a child whose parent had ended before the child requested the signal."""

# $1 is the child, the leader of its own process group. `read` returns when the pipe closes.
# `-s KILL` instead of `-KILL`, because dash misreads `-KILL --`.
WAIT_AND_KILL = 'read -r _; kill -s KILL -- "-$1"'


def end_with(parent_pid: int) -> None:
    """Request that this process is killed when its parent ends. Exit if the parent has ended.

    Call it first in a child. Linux ties the signal to the *thread* that started the child:
    the front starts its children from its main thread only.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)


class Guard:
    """A shell that kills a child's process group when the daemon ends, for macOS."""

    def __init__(self, child_pid: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", WAIT_AND_KILL, "mlxd-guard", str(child_pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """Stop the shell. Call it after the child has ended."""
        # Killed before the pipe closes: the child's id may belong to another process by now.
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            with contextlib.suppress(OSError):
                self._shell.stdin.close()


def guard(child_pid: int) -> Guard | None:
    """Return a guard, or None where the kernel kills children together with the daemon."""
    return Guard(child_pid) if NEEDS_GUARD else None
