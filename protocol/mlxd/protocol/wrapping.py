"""Wraps text between words, for terminals. Wide characters count as the cells that they take."""

from __future__ import annotations

import re

WORD = re.compile(r"( *)([^ ]+)")


def wrapped(text: str, width: int, *, first: str = "", rest: str = "") -> str:
    """Return a line as lines of at most `width` cells, if no word is longer.

    Words are never cut, so that commands and paths can be copied. `first` and `rest` are the
    indents of the first line and of the others.
    """
    # Imported late: most messages go to a pipe or fit into the line.
    from rich.cells import cell_len

    if cell_len(first + text) <= width:
        return first + text
    lines: list[str] = []
    line, used = first, False
    for gap, word in WORD.findall(text):
        if used and cell_len(line + gap + word) > width:
            lines.append(line)
            line = rest + word
        else:
            line += gap + word
        used = True
    return "\n".join([*lines, line])
