"""Types into a real program on a terminal and records every screen."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyte
from drawing import Cells, Frame, Style

from support.terminal import Terminal

KEY_S = 0.045
BEFORE_KEYS_S, BEFORE_ENTER_S = 0.7, 0.35
LONGEST_ANSWER_S = 3.2
"""The effect of a line is played in real time, or in this time if it took longer."""
SHORTEST_FRAME_S = 0.03
WAIT_S = 60.0
PROMPT = r"\[\e[0;32m\]$\[\e[0;1m\] "
SHELL = {
    "TERM": "xterm-256color",
    "HISTFILE": "",
    "PS1": PROMPT,
    # The shell prints this before a command runs, so that the command's output is not bold.
    "PS0": r"\e[0m",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A session: the lines to type, and the prompt to wait for after each one."""

    title: str
    label: str
    lines: Sequence[tuple[str, str]]
    columns: int = 90
    rows: int = 40


class Recorder(Terminal):
    """A terminal that records its screens and their times."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], columns: int, rows: int
    ) -> None:
        self.frames: list[Frame] = []
        self._clock_s = 0.0
        super().__init__(command, environ, columns, rows)

    def begin(self) -> None:
        """Wait for the shell's first prompt and record it as the first frame."""
        self.wait_for(lambda: self._prompted("$"), "a prompt", WAIT_S)
        self._keep(self._frame(0.0))

    def type(self, line: str) -> None:
        """Type a line key by key, and wait for each key to appear on the screen."""
        self._clock_s += BEFORE_KEYS_S
        start = self.screen.cursor.x
        for count, key in enumerate(line, 1):
            self.send(key)
            typed = line[:count]
            self.wait_for(functools.partial(self._at, start, typed), f"{typed!r}", WAIT_S)
            self._keep(self._frame(self._clock_s))
            self._clock_s += KEY_S
        self._clock_s += BEFORE_ENTER_S

    def _at(self, column: int, text: str) -> bool:
        # In the cursor's present row: a chat may redraw its prompt further down.
        return self.screen.display[self.screen.cursor.y][column:].startswith(text)

    def answer(self, prompt: str) -> None:
        """Press Enter, and record the screens until the prompt appears again."""
        started = time.monotonic()
        shots: list[tuple[float, Frame]] = []
        self.send("\r")
        while not self._prompted(prompt):
            assert self._read(started + WAIT_S), f"ended without {prompt!r}:\n{self.text()}"
            shots.append((time.monotonic() - started, self._frame(0.0)))
        faster = min(1.0, LONGEST_ANSWER_S / shots[-1][0])
        shown_s = -1.0
        for taken_s, frame in shots:
            at_s = taken_s * faster
            if at_s - shown_s >= SHORTEST_FRAME_S or frame is shots[-1][1]:
                self._keep(replace(frame, at_s=self._clock_s + at_s))
                shown_s = at_s
        self._clock_s += shots[-1][0] * faster

    def _prompted(self, prompt: str) -> bool:
        # Compare the cursor too, because a prompt may be drawn in parts.
        row, column = self.screen.cursor.y, self.screen.cursor.x
        return self.screen.display[row].strip() == prompt and column == len(prompt) + 1

    def _frame(self, at_s: float) -> Frame:
        cursor = (self.screen.cursor.y, self.screen.cursor.x)
        return Frame(at_s, cells_of(self.screen), None if self.screen.cursor.hidden else cursor)

    def _keep(self, frame: Frame) -> None:
        last = self.frames[-1] if self.frames else None
        if last is None or (last.cells, last.cursor) != (frame.cells, frame.cursor):
            self.frames.append(frame)


def cells_of(screen: pyte.Screen) -> Cells:
    """Return the visible text of a screen."""
    cells: Cells = {}
    for row in range(screen.lines):
        for column, cell in screen.buffer[row].items():
            if cell.data.strip():
                cells[row, column] = (cell.data, Style(cell.fg, cell.bold))
    return cells


def play(scene: Scene, environ: Mapping[str, str]) -> list[Frame]:
    """Return the frames of a shell session in which each line is typed and answered."""
    shell = ["bash", "--noprofile", "--norc"]
    recorder = Recorder(shell, {**environ, **SHELL}, scene.columns, scene.rows)
    try:
        recorder.begin()
        for line, prompt in scene.lines:
            recorder.type(line)
            recorder.answer(prompt)
        return recorder.frames
    finally:
        recorder.close()
