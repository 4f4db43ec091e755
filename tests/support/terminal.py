"""Runs a program on its own terminal, whose screen can be read as text."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyte

WAIT_S = 60.0
SYNCHRONISED = re.compile(r"\x1b\[\?2026[hl]")


class Terminal:
    """A pseudo-terminal with its program and its screen."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], columns: int, rows: int
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000, ratio=1)
        self._stream = pyte.Stream(self.screen)
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self.raw = ""
        self.exit_code: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            # Background jobs of a shell inherit an ignored SIGINT.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execvpe(command[0], list(command), dict(environ))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, keys: str) -> None:
        """Type text."""
        os.write(self._fd, keys.encode())

    def wait(self, wanted: str, *, timeout_s: float = WAIT_S) -> str:
        """Read until the text appears on the screen or in the scrollback. Returns all text."""
        return self.wait_for(lambda: wanted in self.text(), f"{wanted!r}", timeout_s)

    def wait_prompt(self, prompt: str, *, timeout_s: float = WAIT_S) -> str:
        """Read until the cursor is in a row that contains only the prompt."""

        def prompted() -> bool:
            return self.screen.display[self.screen.cursor.y].strip() == prompt

        return self.wait_for(prompted, f"prompt {prompt!r}", timeout_s)

    def end(self, *, timeout_s: float = WAIT_S) -> str:
        """Read until the program exits and set `exit_code`. Returns all text."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.exit_code = os.waitstatus_to_exitcode(status)
        return self.text()

    def text(self) -> str:
        """Return the scrollback and the screen as text."""
        width = self.screen.columns
        gone = ["".join(line[x].data for x in range(width)) for line in self.screen.history.top]
        lines = [line.rstrip() for line in [*gone, *self.screen.display]]
        return "\n".join(lines).rstrip()

    def close(self) -> None:
        if self.exit_code is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def wait_for(self, met: Callable[[], bool], what: str, timeout_s: float) -> str:
        """Read until a condition is met. Return the text. A failure names `what` is missing."""
        deadline = time.monotonic() + timeout_s
        while not met():
            assert self._read(deadline), f"ended without {what}:\n{self.text()}"
        return self.text()

    def _read(self, deadline: float) -> bool:
        """Read the output of the program. Return False if it has exited."""
        left = deadline - time.monotonic()
        ready = select.select([self._fd], [], [], max(0.0, left))[0]
        assert ready, f"no more output:\n{self.text()}"
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:
            return False
        text = self._decode(data)
        self.raw += text
        self._stream.feed(SYNCHRONISED.sub("", text))
        # Answer queries for the cursor position and the status, like a terminal.
        if "\x1b[5n" in text:
            self.send("\x1b[0n")
        if "\x1b[6n" in text:
            cursor = self.screen.cursor
            self.send(f"\x1b[{cursor.y + 1};{cursor.x + 1}R")
        return bool(data)


@contextmanager
def terminal(
    command: Sequence[str], environ: Mapping[str, str], *, columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """Run a program on a terminal during a `with` block."""
    opened = Terminal(command, {"TERM": "xterm-256color", **environ}, columns, rows)
    try:
        yield opened
    finally:
        opened.close()
