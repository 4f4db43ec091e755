"""Durations, sizes and text as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds in words: `203 ms`, `4.2 s`, `1 h 2 min`. Negative: `forever`."""
    if seconds < 0:
        return "forever"
    if 0 < seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{milliseconds:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def size(count: float) -> str:
    """Return bytes in words, with decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return "1 byte" if count == 1 else f"{count:.0f} bytes"


def quantity(name: str, value: float) -> tuple[str, str]:
    """Return (label, value) of a number whose name ends with its unit, as in `load_s`."""
    if name.endswith("_per_s"):
        return spaced(name[: -len("_per_s")]), f"{value:.3g}/s"
    if name.endswith("_s"):
        return spaced(name[: -len("_s")]), duration(value)
    if name.endswith("bytes") and name[:-5][-1:] in ("", "_", " "):
        return spaced(name[: -len("bytes")]) or "size", size(value)
    return spaced(name), f"{value:.6g}" if isinstance(value, float) else str(value)


def spaced(name: str) -> str:
    """Return the name of a field as words."""
    return name.replace("_", " ").strip()


def visible(text: str) -> str:
    """Escape characters that would move the cursor, change colours or hide other text."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
