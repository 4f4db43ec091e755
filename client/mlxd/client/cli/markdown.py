"""Renders Markdown on a terminal as it streams.

Finished blocks (all but the last) are printed once and scroll away. The open block at the bottom is
redrawn with each piece of text, from the first changed row. This avoids flicker, and tables and
lists look right as soon as their rows arrive.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.text import Text

FRAME_S = 0.04
SYNCHRONISED = "\x1b[?2026h", "\x1b[?2026l"
"""Synchronised output. Terminals that support it show the whole update at once, and others ignore
it."""


COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LeftHeading(Heading):
    """Headings are left-aligned, because centred ones move while they are written."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield Text("# ", style="dim") + self.text if self.tag == "h1" else self.text


class AnswerMarkdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": LeftHeading,
    }


class MarkdownStream:
    """Renders text from `write`. `shown` is raw text that is already on the terminal."""

    def __init__(self, shown: str = "", console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, force_terminal=True, highlight=False)
        self._parser = MarkdownIt().enable("strikethrough").enable("table")
        self._source = shown
        self._live: list[str] = [""] * self._rows_of(shown)
        self._gone = 0
        self._first = True
        self._painted_s = 0.0

    def write(self, text: str) -> None:
        """Add a piece of the answer."""
        self._source += text
        now = time.monotonic()
        if now - self._painted_s >= FRAME_S:
            self._painted_s = now
            self._paint(final=False)

    def close(self) -> None:
        """Draw the rest and start a new line."""
        self._paint(final=True)

    def _rows_of(self, text: str) -> int:
        width = self._console.width
        return sum(max(1, -(-cell_len(line) // width)) for line in text.split("\n"))

    def _paint(self, *, final: bool) -> None:
        blocks = self._blocks()
        self._source = "" if final else blocks.pop()
        out = [SYNCHRONISED[0]]
        for block in blocks:
            rows = self._render(block)
            if not rows and self._live in ([], [""]):
                continue  # blank lines, or Markdown without visible output
            out.append(self._replace(rows[self._gone :]) + "\n")
            self._live, self._gone, self._first = [], 0, False
        if self._source.strip():
            rows = self._render(self._source)[self._gone :]
            out.append(self._replace(rows))
            # Rows above the screen cannot be redrawn.
            over = max(0, len(rows) - (self._console.height - 1))
            self._gone += over
            self._live = rows[over:]
        out.append(SYNCHRONISED[1])
        self._console.file.write("".join(out))
        self._console.file.flush()

    def _replace(self, rows: list[str]) -> str:
        """Return the output that draws `rows` over the live ones.

        The cursor stays at the end of the last row.
        """
        same = 0
        while same < min(len(rows), len(self._live) - 1) and rows[same] == self._live[same]:
            same += 1
        up = len(self._live) - 1 - same
        move = "\r" + (f"\x1b[{up}A" if up > 0 else "") if self._live else ""
        if same < len(rows):
            return move + "\x1b[J" + "\n".join(rows[same:])
        # There are fewer rows than before: erase the rest and return to the end of the last row.
        back = f"\x1b[A\x1b[{max(1, self._console.width)}C" if same else ""
        return move + "\x1b[J" + back

    def _blocks(self) -> list[str]:
        """Return the blocks of the source. All but the last are finished."""
        starts = [
            token.map[0]
            for token in self._parser.parse(self._source)
            if token.level == 0 and token.map is not None and token.nesting >= 0
        ]
        lines = self._source.split("\n")
        edges = [0, *sorted(set(starts[1:])), len(lines)]
        return ["\n".join(lines[start:end]) for start, end in itertools.pairwise(edges)]

    def _render(self, source: str) -> list[str]:
        with self._console.capture() as captured:
            self._console.print(AnswerMarkdown(source, code_theme="ansi_dark", hyperlinks=False))
        rows = [row.rstrip(" ") for row in captured.get().split("\n")]
        while rows and not _seen(rows[0]):
            rows.pop(0)
        while rows and not _seen(rows[-1]):
            rows.pop()
        return ["", *rows] if rows and not self._first else rows


def _seen(row: str) -> bool:
    return bool(COLOUR.sub("", row).strip())
