"""Runs commands as a user does, and measures the time from exec to the first byte on a terminal."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

PATIENCE_S = 180.0


def until_exit(command: Sequence[str], env: Mapping[str, str]) -> float:
    """Return the seconds from exec to the end of the process."""
    started = time.perf_counter()
    subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return time.perf_counter() - started


def until_output(command: Sequence[str], env: Mapping[str, str], after: bytes = b"") -> float:
    """Return the seconds from exec to the first byte after `after` on its terminal.

    The command's standard output is a terminal. The rest of its output is read and dropped. Raises
    RuntimeError with the output if the byte never arrives.
    """
    ours, theirs = os.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE
    )
    os.close(theirs)
    try:
        return _first(ours, after, process) - started
    finally:
        process.stderr.close()  # type: ignore[union-attr]
        process.wait(PATIENCE_S)
        os.close(ours)


def _first(terminal: int, after: bytes, process: subprocess.Popen[bytes]) -> float:
    seen, found = b"", 0.0
    while True:
        try:
            ready, _, _ = select.select([terminal], [], [], PATIENCE_S)
            data = os.read(terminal, 1 << 16) if ready else b""
        except OSError:  # Linux: the other side of the terminal was closed
            data = b""
        if not data:
            break
        seen += data
        _, mark, rest = seen.partition(after) if after else (b"", b"x", seen)
        if not found and mark and rest.strip():
            found = time.perf_counter()
    if not found:
        assert process.stderr is not None
        said = process.stderr.read()[-600:].decode(errors="replace")
        raise RuntimeError(f"{process.args!r} printed no answer: {seen!r} {said}")
    return found
