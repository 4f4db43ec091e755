"""Bounds the memory that a chat template may use.

Whatever makes a text or a list is charged to the budget of the rendering. What can make a large
one of small parts is estimated before it is made. What only copies is charged afterwards.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext

BASE_BYTES = 64 * 2**20
INPUT_FACTOR = 32
"""Templates copy a message several times: they strip it, put it between markers, and join."""
ITEM_BYTES = 64
"""What an item of a list and a small value in it take."""
PRINTED_NUMBER = 24
WIDTH = re.compile(r"[0-9]+")

Function = Callable[..., Any]


class Budget(threading.local):
    """Bytes that the rendering on this thread may still use."""

    def __init__(self) -> None:
        self.left = BASE_BYTES

    def begin(self, inputs: Any) -> None:
        """Start a rendering with these variables."""
        self.left = BASE_BYTES + INPUT_FACTOR * printed(inputs)

    def check(self, size: int) -> None:
        """Raise SecurityError if a value of this size is too large to be made."""
        if size > self.left:
            raise SecurityError("The template makes more text than templates may")

    def charge(self, size: int) -> None:
        self.check(size)
        self.left -= size

    def made(self, value: Any) -> Any:
        """Charge a value that was just made, and return it."""
        self.charge(sys.getsizeof(value) if isinstance(value, str | bytes | int) else held(value))
        return value

    def printable(self, value: Any) -> Any:
        """Check a value that is about to be turned into text, and return it."""
        if isinstance(value, dict | list | tuple | int):
            self.check(printed(value))
        return value

    def concat(self, parts: Iterable[str]) -> str:
        """Join the parts of the output, and stop at the first one that is too much."""
        kept = []
        for part in parts:
            self.charge(sys.getsizeof(part))
            kept.append(part)
        return "".join(kept)


def held(value: Any) -> int:
    """Return about how many bytes a container takes by itself."""
    return ITEM_BYTES * len(value) if isinstance(value, dict | list | tuple | set) else ITEM_BYTES


def printed(value: Any) -> int:
    """Return about how many bytes `str(value)` has, without making it."""
    sizes: dict[int, int] = {}

    def size_of(one: Any) -> int:
        if isinstance(one, str):
            return len(one) if one.isascii() else 4 * len(one)
        if isinstance(one, int):
            return PRINTED_NUMBER + one.bit_length() // 3
        if not isinstance(one, dict | list | tuple):
            return PRINTED_NUMBER
        if (known := sizes.get(id(one))) is None:
            parts = (x for pair in one.items() for x in pair) if isinstance(one, dict) else one
            # The same list may be in others many times: its size is computed once.
            sizes[id(one)] = PRINTED_NUMBER  # for a list that contains itself
            known = sizes[id(one)] = sum(map(size_of, parts)) + 4 * len(one) + 2
        return known

    try:
        return size_of(value)
    except RecursionError as exc:
        raise SecurityError("The template makes a structure that is nested too deeply") from exc


# ---- estimates of what methods and filters make; each gets the arguments of the call


def _number(value: Any) -> int:
    return max(0, value) if isinstance(value, int) else 0


def _padded(text: Any, width: Any = 80, *_: Any, **named: Any) -> int:
    return printed(text) + 4 * max(_number(width), *map(_number, named.values()), 0)


def _tabs(text: Any, size: Any = 8, *_: Any, **named: Any) -> int:
    widest = max(_number(size), *map(_number, named.values()), 0)
    tabs = text.count("\t" if isinstance(text, str) else b"\t")
    return printed(text) + int(tabs) * widest


def _replaced(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> int:
    whole, old, new = str(text), str(old), str(new)
    found = whole.count(old) if old else len(whole) + 1
    return printed(whole) + found * printed(new)


def _joined(separator: Any, parts: Any = (), *_: Any, **__: Any) -> int:
    parts = parts if isinstance(parts, list | tuple | dict | str) else ()
    return printed(list(parts)) + len(parts) * printed(separator)


def _join_filter(parts: Any, separator: Any = "", *_: Any, **named: Any) -> int:
    return _joined(named.get("d", separator), parts)


def _split(text: Any, *_: Any, **__: Any) -> int:
    return printed(text) * ITEM_BYTES // 2


def _translated(text: Any, table: Any = (), *_: Any, **__: Any) -> int:
    values = table.values() if isinstance(table, dict) else ()
    return printed(text) * max(1, *map(printed, values), 1)


def formatted(text: Any, *given: Any, **named: Any) -> int:
    """Return how much `text % given` or `text.format(*given)` has at most."""
    source = str(text)
    values = [*given, *named.values()]
    numbers = [_number(value) for value in _flat(values)]
    widths = sum(int(one[:18]) for one in WIDTH.findall(source))
    fields = source.count("%") + source.count("{")
    stars = (source.count("*") + source.count("{}}")) * max(numbers, default=0)
    return len(source) + widths + stars + fields * (printed(values) if fields else 0)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, tuple | list):
            yield from value
        else:
            yield value


def _indented(text: Any, width: Any = 4, *_: Any, **named: Any) -> int:
    width = named.get("width", width)
    size = len(width) if isinstance(width, str) else _number(width)
    return printed(text) + (str(text).count("\n") + 1) * size


def _wrapped(text: Any, *given: Any, **named: Any) -> int:
    longest = max((printed(one) for one in (*given, *named.values()) if isinstance(one, str)),
                  default=1)  # fmt: skip
    return printed(text) * max(2, longest)


def _filled(value: Any, count: Any = 0, *_: Any, **named: Any) -> int:
    return ITEM_BYTES * max(_number(count), *map(_number, named.values()), 0)


def _json(value: Any, *given: Any, **named: Any) -> int:
    indent = max((_number(one) for one in (*given, *named.values())), default=0)
    return 6 * printed(value) * (1 + indent)


def _summed(values: Any, *_: Any, **__: Any) -> int:
    values = values if isinstance(values, list | tuple) else ()
    return sum(held(one) for one in values)


def _listed(value: Any, *_: Any, **__: Any) -> int:
    return ITEM_BYTES * len(value) if isinstance(value, str | bytes | list | dict | range) else 0


def _to_bytes(_value: Any, length: Any = 1, *_: Any, **__: Any) -> int:
    return _number(length)


METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("rjust", "ljust", "center", "zfill"), _padded),
    **dict.fromkeys(("split", "rsplit", "splitlines"), _split),
    "expandtabs": _tabs, "replace": _replaced, "join": _joined, "translate": _translated,
    "format": formatted, "format_map": formatted, "to_bytes": _to_bytes,
}  # fmt: skip
"""Methods of built-in types that can make a large value, and estimates of its size."""
FILTERS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("batch", "slice"), _filled), **dict.fromkeys(("list", "sort"), _listed),
    **dict.fromkeys(("urlize", "wordwrap", "truncate"), _wrapped),
    "center": _padded, "format": formatted, "indent": _indented, "join": _join_filter,
    "pprint": _json, "replace": _replaced, "string": printed, "sum": _summed, "tojson": _json,
}  # fmt: skip
"""Filters that can make a large value, and estimates of its size."""


def limited_filter(name: str, function: Function, budget: Budget) -> Function:
    """Return the filter with its budget. Jinja's own arguments come before the value."""
    estimate = FILTERS.get(name)
    own = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def limited(*given: Any, **named: Any) -> Any:
        args = listed(given, budget)
        if estimate is not None:
            budget.check(estimate(*args[own:], **named))
        return budget.made(function(*args, **named))

    return limited


def listed(args: Iterable[Any], budget: Budget) -> list[Any]:
    """Return the arguments with lists in place of iterators, whose items cannot be measured."""
    return [
        budget.made(list(one))
        if isinstance(one, Iterator) and not isinstance(one, LoopContext)
        else one
        for one in args
    ]


def check_method(method: Any, args: list[Any], named: dict[str, Any], budget: Budget) -> None:
    """Check what a method of a built-in value will make."""
    owner = getattr(method, "__self__", None)
    estimate = METHODS.get(getattr(method, "__name__", ""))
    if estimate is not None and isinstance(owner, str | bytes | int):
        budget.check(estimate(owner, *args, **named))
