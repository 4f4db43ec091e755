"""Child processes end with their parent, whatever they are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support import needs
from support.waiting import ended, until

# A parent whose child sets up its lifeline, prints its process id and then runs `then`.
PARENT = """
import subprocess, sys, os, time
command = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
said = child.stdout.readline()
exec(sys.argv[2])
print(said, end="", flush=True)
time.sleep(60)
"""
CHILD = """
import ctypes, os, sys, time
from mlxd.daemon import lifeline
{first}
lifeline.end_with(int(sys.argv[1]))
print(os.getpid(), flush=True)
{then}
"""
HOLDS_THE_INTERPRETER = "ctypes.PyDLL(None).sleep(60)"  # a native call that keeps the GIL
GUARDED = "from mlxd.daemon import lifeline; guard = lifeline.Guard(child.pid)"
UNAWARE = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    parents: list[subprocess.Popen[str]] = []
    yield parents
    for parent in parents:
        parent.kill()
        parent.communicate()


def start(parents: list[subprocess.Popen[str]], child: str, beside: str = "") -> tuple[int, int]:
    """Start a parent that runs `beside` once its child is ready; return both process ids."""
    command = [sys.executable, "-c", PARENT, child, beside]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    parents.append(parent)
    assert parent.stdout is not None
    return parent.pid, int(parent.stdout.readline())


@needs.linux_only  # has the parent-death signal
@pytest.mark.parametrize("then", [HOLDS_THE_INTERPRETER, "while True: pass"])
def test_a_stuck_child_ends_with_its_parent(
    started: list[subprocess.Popen[str]], then: str
) -> None:
    parent, child = start(started, CHILD.format(first="", then=then))
    os.kill(parent, signal.SIGKILL)
    until(lambda: ended(child), "the child outlived its parent", 10)


@needs.linux_only
def test_a_stopped_child_ends_with_its_parent(started: list[subprocess.Popen[str]]) -> None:
    parent, child = start(started, CHILD.format(first="", then="time.sleep(60)"))
    os.kill(child, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)
    until(lambda: ended(child), "the child outlived its parent", 10)


@needs.linux_only
def test_a_child_ends_at_once_if_its_parent_has_already_ended(
    started: list[subprocess.Popen[str]],
) -> None:
    slow = (
        "print(os.getpid(), flush=True)\nwhile os.getppid() == int(sys.argv[1]): time.sleep(0.01)"
    )
    parent, child = start(started, CHILD.format(first=slow, then="time.sleep(60)"))
    os.kill(parent, signal.SIGKILL)
    until(lambda: ended(child), "the child outlived its parent", 10)


@pytest.mark.parametrize("stop", [False, True])
def test_a_guard_ends_a_child_that_has_no_lifeline(
    started: list[subprocess.Popen[str]], stop: bool
) -> None:
    parent, child = start(started, UNAWARE, GUARDED)
    if stop:
        os.kill(child, signal.SIGSTOP)
    os.kill(parent, signal.SIGKILL)
    until(lambda: ended(child), "the child outlived its parent", 10)


def test_a_released_guard_does_not_kill_the_child(started: list[subprocess.Popen[str]]) -> None:
    _, child = start(started, UNAWARE, f"{GUARDED}; guard.release()")
    assert not ended(child)
    os.kill(child, signal.SIGKILL)
