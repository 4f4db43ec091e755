"""Finds the model that a short or mistyped name means. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

_TAIL = re.compile(
    r"[-_.](?:\d+bits?|bf16|fp16|fp32|float16|float32|bfloat16|mlx|dwq|awq|gptq|mxfp4|mxfp8|nvfp4"
    r"|q\d+|instruct|it|chat|[\w]*\d{4})$"
)
"""Endings of names that people omit: quantisation, type, tuning, date."""


def matches(wanted: str, known: Iterable[str]) -> list[str]:
    """Return the names that `wanted` may mean, by the strictest rule that matches any."""
    names = sorted(set(known))
    for rule in _RULES:
        if found := [name for name in names if rule(wanted.lower(), name.lower())]:
            return found
    return []


def nearest(wanted: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the names that are most similar to `wanted`, best first."""
    by_text: dict[str, str] = {}
    for name in known:
        for text in (name.lower(), _last(name.lower()), _stem(_last(name.lower()))):
            by_text.setdefault(text, name)
    close = difflib.get_close_matches(wanted.lower(), by_text, n=3 * most, cutoff=0.5)
    return list(dict.fromkeys(by_text[text] for text in close))[:most]


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _stem(name: str) -> str:
    while (shorter := _TAIL.sub("", name)) != name:
        name = shorter
    return name


def _same(wanted: str, name: str) -> bool:
    return wanted == name


def _same_last(wanted: str, name: str) -> bool:
    return wanted == _last(name)


def _same_stem(wanted: str, name: str) -> bool:
    return wanted in (_stem(_last(name)), _stem(name))


def _starts(wanted: str, name: str) -> bool:
    rest = _last(name).removeprefix(wanted)
    return rest != _last(name) and rest[:1] in ("-", "_", ".", ":")


_RULES: tuple[Callable[[str, str], bool], ...] = (_same, _same_last, _same_stem, _starts)
