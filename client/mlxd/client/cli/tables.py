"""Tables, sizes and durations, as every command prints them."""

from __future__ import annotations

import sys

import click
from rich.cells import cell_len, set_cell_size

from mlxd.client.cli.terminal import width_of
from mlxd.protocol.wrapping import wrapped

Row = tuple[str, ...]
GAP = "  "
NARROWEST = 8
"""Minimum width of a shortened column."""


def print_table(header: Row, rows: list[Row]) -> None:
    """Print columns as wide as their content, but no wider than the terminal."""
    for line in table_lines(header, rows, width_of(sys.stdout)):
        click.echo(line)


def table_lines(header: Row, rows: list[Row], width: int | None) -> list[str]:
    """Return the lines of a table, none wider than `width` cells. None: any width."""
    widths = [max(cell_len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    if width is not None:
        widths = _fitted(widths, width - len(GAP) * (len(widths) - 1))
    return [
        GAP.join(
            _cell(text, size, in_the_middle=not column and bool(number))
            for column, (text, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for number, row in enumerate([header, *rows])
    ]


def print_row(label: str, value: str) -> None:
    """Print a label and its value, which continues below itself on a narrow terminal."""
    columns = width_of(sys.stdout)
    text = label + value
    click.echo(text if columns is None else wrapped(value, columns, first=label, rest=GAP))


def _fitted(widths: list[int], room: int) -> list[int]:
    """Return the widths, with the widest columns shortened until the line fits."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _cell(text: str, size: int, *, in_the_middle: bool) -> str:
    """Return a text with exactly `size` cells.

    Names, in the first column, are shortened in the middle: their ends tell models apart.
    """
    if cell_len(text) <= size:
        return set_cell_size(text, size)
    if not in_the_middle:
        return set_cell_size(set_cell_size(text, size - 1).rstrip() + "…", size)
    end_cells = size // 2
    end = next(text[at:] for at in range(len(text)) if cell_len(text[at:]) <= end_cells)
    start = set_cell_size(text, size - 1 - cell_len(end))
    return set_cell_size(f"{start}…{end}", size)


def size(count: float) -> str:
    """Return a number of bytes in a readable unit, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def duration(seconds: float) -> str:
    """Return a duration in words: "25 minutes", "1 hour"."""
    for unit_s, name in UNITS:
        count = round(seconds / unit_s)
        if count >= 2 or (seconds >= unit_s * 0.95 and count == 1):
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "0 seconds"


def ago(seconds: float) -> str:
    """Return how long ago a time was, in words."""
    return "now" if seconds < 1 else f"{duration(seconds)} ago"
