"""Wraps text between words, for terminals. Wide characters count as the cells that they take."""

from __future__ import annotations

import re

WORD = re.compile(r"( *)([^ ]+)")
INDENT = re.compile(r"mlxd?: |  \S+(?: \S+)* {2,}| *")
"""What the rest of a line stands below: the program's name, or the second of two columns."""
COMMAND = re.compile(
    r"`[^`]+`"
    r"|(?:(?<=: )|(?<=, )|(?<= or ))(?:mlxd?|export|unset|chmod|mkdir|ls|tail|ulimit|hf)"
    r"(?: (?!or |and |then )[^\s,;]*[^\s,;.])+"
)
"""A command in a message. Broken in two, it could not be pasted."""
NO_BREAK = "\xa0"


def wrapped(text: str, width: int, *, first: str = "", rest: str = "") -> str:
    """Return a line as lines of at most `width` cells, if no word or command is longer.

    Words and commands are never cut, so that they can be copied. `first` and `rest` are the indents
    of the first line and of the others.
    """
    # Imported late: most messages go to a pipe or fit into the line.
    from rich.cells import cell_len

    if cell_len(first + text) <= width:
        return first + text
    lines: list[str] = []
    # A longer first indent is a label. A word that does not fit beside it goes below it.
    line, used = first, len(rest) < len(first)
    kept = COMMAND.sub(lambda match: match[0].replace(" ", NO_BREAK), text)
    for gap, word in WORD.findall(kept):
        if used and cell_len(line + gap + word) > width:
            lines.append(line.rstrip())
            line = rest + word
        else:
            line += gap + word
        used = True
    return "\n".join([*lines, line]).replace(NO_BREAK, " ")


def folded(text: str, width: int) -> str:
    """Wrap each line of a message. Its rest continues below what `INDENT` matches."""
    lines = []
    for line in text.split("\n"):
        match = INDENT.match(line)
        assert match is not None
        first = match[0]
        lines.append(wrapped(line[len(first) :], width, first=first, rest=" " * len(first)))
    return "\n".join(lines)
