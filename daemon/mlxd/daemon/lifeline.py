"""Ends a child process together with the daemon, whatever the child's own threads do.

A child that is stuck in native code, or stopped, can neither read its link nor handle a signal. On
Linux the kernel sends SIGKILL when the parent ends (`PR_SET_PDEATHSIG`). macOS has no such signal,
and a kqueue of the child's own needs its interpreter, which a native call may hold for good: there
a shell waits beside the child for the end of a pipe that only the daemon holds, and kills it then.
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
"""Exit status of a child whose parent ended before the child could ask for the signal."""

# $1 is the child, which leads a process group of its own. `read` returns when the pipe ends. Not
# `-KILL`: with `--` behind it dash takes it for a number.
WAIT_AND_KILL = 'read -r _; kill -s KILL -- "-$1"'


def end_with(parent_pid: int) -> None:
    """Have this process killed when its parent ends; exit at once if that has happened already.

    Call it first thing in a child. Linux ties the signal to the *thread* that started the child:
    the front starts its children from its main thread only.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)


class Guard:
    """A shell that kills a child's process group when the daemon ends. For macOS."""

    def __init__(self, child_pid: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", WAIT_AND_KILL, "mlxd-guard", str(child_pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """End the guard; call it once the child has ended."""
        # Killed before the pipe is closed: its number may be another process's by now.
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            with contextlib.suppress(OSError):
                self._shell.stdin.close()


def guard(child_pid: int) -> Guard | None:
    """Return a guard for a child where the kernel does not end it with the daemon."""
    return Guard(child_pid) if NEEDS_GUARD else None
