"""Parses durations such as `90`, `45s`, `1h30m` and `forever`. Imports nothing."""

from __future__ import annotations

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
FOREVER = -1.0


def seconds(text: str) -> float:
    """Return the duration in seconds; `FOREVER` (-1) for "forever".

    A bare number is in seconds. With several parts, each needs a unit, in descending order:
    `1h30m`.

    Raises:
        ValueError: the text is not a duration. The message shows examples.
    """
    given = text.strip().lower()
    if given in ("forever", "-1"):
        return FOREVER
    try:
        return _plain(given) if _is_number(given) else _parts(given)
    except ValueError:
        raise ValueError(f"Invalid duration {text!r}. Use 90, 30s, 1h30m, 2d or forever.") from None


def _parts(text: str) -> float:
    total, last, number, rest = 0.0, float("inf"), "", text
    while rest:
        number, rest = _number(rest)
        unit, rest = _unit(rest)
        size = UNITS[unit]
        if size >= last:
            raise ValueError(text)
        total, last = total + _plain(number) * size, size
    if not number:
        raise ValueError(text)
    return total


def _number(text: str) -> tuple[str, str]:
    size = 0
    while size < len(text) and (text[size].isdigit() or text[size] == "."):
        size += 1
    return text[:size], text[size:].lstrip()


def _unit(text: str) -> tuple[str, str]:
    size = 0
    while size < len(text) and text[size].isalpha():
        size += 1
    if text[:size] not in UNITS:
        raise ValueError(text)
    return text[:size], text[size:].lstrip()


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _plain(text: str) -> float:
    # Not `float()` alone: it accepts "1_000", "inf" and digits of other scripts.
    if not (text.isascii() and _is_number(text)) or len(text) > 20:
        raise ValueError(text)
    return float(text)
