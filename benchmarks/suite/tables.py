"""Formats records as Markdown tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from suite.figures import Summary, ratio, summary
from suite.records import Record

REFERENCE = "mlxd"


def number(value: float, unit: str) -> str:
    """Return a value with three significant digits in a suitable unit."""
    if unit == "bytes":
        return f"{_digits(value / 2**20)} MB" if value >= 2**19 else f"{_digits(value / 1024)} kB"
    if unit == "s":
        if value >= 1:
            return f"{_digits(value)} s"
        return f"{_digits(1000 * value)} ms" if value >= 0.0005 else f"{_digits(1e6 * value)} µs"
    if unit == "tokens/s":
        return _digits(value)
    return f"{_digits(value)} {unit.removesuffix(' per token')}".strip()


def _digits(value: float) -> str:
    if value and abs(value) < 1:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_spread(found: Summary, unit: str) -> str:
    """Return the median, with quartiles if there are enough values."""
    text = number(found.median, unit)
    if found.count < 3 or found.low == found.high:
        return text
    return f"{text} ({_digits_in(found.low, text, unit)}–{_digits_in(found.high, text, unit)})"


def _digits_in(value: float, like: str, unit: str) -> str:
    """Return a quartile in the unit of the median, without the unit's name."""
    scale = {"MB": 2**-20, "kB": 2**-10, "ms": 1e3, "µs": 1e6}.get(like.rpartition(" ")[2], 1.0)
    return _digits(value * scale)


def comparison(records: Sequence[Record], reference: str = REFERENCE) -> str:
    """Return a table of one measurement and model, with a row per case and a column per contender.

    Each contender's figure is followed by the reference's value as a multiple of it, pair by pair.
    """
    contenders = list(dict.fromkeys(record.contender for record in records))
    cells = {(record.case, record.contender): record for record in records}
    lines = [["", *contenders]]
    for case in dict.fromkeys(record.case for record in records):
        own = cells.get((case, reference))
        lines.append([case, *(_cell(cells.get((case, name)), own) for name in contenders)])
    return table(lines)


def _cell(record: Record | None, own: Record | None) -> str:
    if record is None:
        return "–"
    text = with_spread(summary(record.values), record.unit)
    if own is None or record is own or own.unit != record.unit:
        return text
    return f"{text} · **{ratio(own.values, record.values).median:.2f}**"


def table(lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. The first line is its header."""
    head, *rest = lines
    rows = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
