"""Counts instructions and system calls. Unlike times, they do not depend on other processes."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from support import needs

_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$", re.MULTILINE)


def instructions(work: Callable[[], object]) -> int:
    """Return the number of Python instructions that the work executes in this thread."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


class SystemCalls:
    """The system calls of a command and its children, recorded by strace."""

    def __init__(self, text: str) -> None:
        self.made = [(found[1], found[2]) for found in _CALL.finditer(text)]

    @property
    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.made)

    def opened(self, part: str) -> list[str]:
        """Return the successfully opened files whose path contains this text."""
        found = []
        for name, rest in self.made:
            path = rest.split('"')[1] if name in ("open", "openat") and '"' in rest else ""
            if part in path and "= -1" not in rest:
                found.append(path)
        return found


def system_calls(command: Sequence[str], environ: Mapping[str, str]) -> SystemCalls:
    """Run a command to its end and return its system calls."""
    strace = needs.program("strace")
    with tempfile.NamedTemporaryFile("r") as log:
        subprocess.run(
            [strace, "-f", "-s", "200", "-o", log.name, *command],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        return SystemCalls(Path(log.name).read_text())
