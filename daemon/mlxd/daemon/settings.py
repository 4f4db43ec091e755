"""Kinds of settings, with their checks, parsers and descriptions.

The settings themselves are the fields of `mlxd.daemon.config.Config`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlxd.protocol import durations

FOREVER = -1.0
"""The keep-alive of a model that is never unloaded, in seconds."""


class BadValue(ValueError):
    """A value does not fit its setting. The text says what is expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its kind, its minimum (inclusive) and its description."""

    name: str
    kind: str
    default: Any
    doc: str
    minimum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that overrides the file."""
        return f"MLXD_{self.name.upper()}"

    def check(self, value: Any) -> Any:
        """Return a value from TOML or an option in its normal form.

        Raises:
            BadValue: the value does not fit. The text says what is expected.
        """
        value = KINDS[self.kind].check(value)
        if self.choices and value not in self.choices:
            raise BadValue(f"one of {', '.join(self.choices)}")
        if self.minimum is not None and isinstance(value, (int, float)) and value < self.minimum:
            raise BadValue(f"{KINDS[self.kind].expected} of at least {self.minimum:.15g}")
        return value

    def parse(self, text: str) -> Any:
        """Return the value of an environment variable. Raises BadValue."""
        return self.check(KINDS[self.kind].parse(text))


@dataclass(frozen=True, slots=True)
class Kind:
    """The check and parser of one kind of setting."""

    expected: str
    check: Callable[[Any], Any]
    parse: Callable[[str], Any]


def setting(
    kind: str, default: Any, doc: str, *, minimum: float | None = None, choices: Any = ()
) -> Any:
    """Return a dataclass field that is also a row in the table of settings."""
    about = {"kind": kind, "doc": doc, "minimum": minimum, "choices": tuple(choices)}
    return field(default=default, metadata=about)


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise BadValue("a non-empty string")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadValue("a list of strings")
    return tuple(_string(item) for item in value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValue("true or false")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue("an integer")
    return value


SECONDS = "a number of seconds, or a duration such as 1h30m"
KEEP_ALIVE = 'a number of seconds, a duration such as 1h30m, or "forever"'


def _seconds(value: Any) -> float:
    found = _span(value)
    if found is None or (found < 0 and isinstance(value, str)):
        raise BadValue(SECONDS)
    return found


def _keep_alive(value: Any) -> float:
    found = _span(value)
    if found is None or (found < 0 and found != FOREVER):
        raise BadValue(KEEP_ALIVE)
    return found


def _span(value: Any) -> float | None:
    """Return seconds, or None if the value is not a duration."""
    if isinstance(value, str):
        try:
            return durations.seconds(value)
        except ValueError:
            return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def _bytes(value: Any) -> int:
    problem = 'a number of bytes, as in 8000000000 or "8 GB"'
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadValue(problem)
    match = _BYTES.fullmatch(str(value).strip())
    if match is None:
        raise BadValue(problem)
    unit = (match[2] or "").lower()
    return int(float(match[1]) * {**_UNITS, **_BINARY_UNITS}[unit]) if unit else int(match[1])


_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def _parse_boolean(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise BadValue("true or false")
    return _WORDS[text.lower()]


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadValue("an integer") from None


def _parse_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # the check reports what is expected


KINDS: dict[str, Kind] = {
    "string": Kind("a non-empty string", _string, str),
    "strings": Kind("a list of strings", _strings, lambda text: text.split(":")),
    "boolean": Kind("true or false", _boolean, _parse_boolean),
    "integer": Kind("an integer", _integer, _parse_integer),
    "seconds": Kind(SECONDS, _seconds, _parse_number),
    "keep-alive": Kind(KEEP_ALIVE, _keep_alive, _parse_number),
    "bytes": Kind("a number of bytes", _bytes, str),
}
"""Maps the name of a kind to its check and parser."""
