"""The format of a stored conversation in `conversations.show` and `conversations.import`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxd.protocol.errors import InvalidParams

KINDS = ("chat", "generate")
STATES = ("done", "broken", "answering")
Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_list_of_maps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


RECORD: dict[str, tuple[Check, str]] = {
    "id": (lambda value: isinstance(value, str) and 0 < len(value) <= 64, "an id"),
    "kind": (lambda value: value in KINDS, "chat or generate"),
    "scope": (_is_text, "a string"),
    "title": (_is_text, "a string"),
    "system": (_is_text_or_none, "a string or null"),
    "model": (_is_text, "a string"),
    "created": (_is_time, "seconds since 1970"),
    "updated": (_is_time, "seconds since 1970"),
    "turns": (_is_list_of_maps, "a list of turns"),
}
TURN: dict[str, tuple[Check, str]] = {
    "state": (lambda value: value in STATES, "done, broken or answering"),
    "error": (_is_text_or_none, "a string or null"),
    "model": (_is_text, "a string"),
    "created": (_is_time, "seconds since 1970"),
    "messages": (_is_list_of_maps, "a list of messages"),
    "answer": (_is_text, "a string"),
    "reasoning": (_is_text, "a string"),
    "tool_calls": (_is_list_of_maps, "a list of tool calls"),
    "usage": (lambda value: isinstance(value, dict), "a map"),
}
IGNORED = frozenset({"number"})
"""Fields of a turn that each database assigns itself."""


def check_record(where: str, value: Any) -> dict[str, Any]:
    """Validate a conversation with its turns, and return it.

    Raises:
        InvalidParams: it is not a conversation. The message names the field, below `where`.
    """
    _check(where, value, RECORD, frozenset())
    for index, turn in enumerate(value["turns"]):
        _check(f"{where}.turns[{index}]", turn, TURN, IGNORED)
    found: dict[str, Any] = value
    return found


def check_records(name: str, value: Any) -> list[dict[str, Any]]:
    """Validate a list of conversations. Raises InvalidParams if it is not one."""
    if not isinstance(value, list):
        raise InvalidParams(name, "must be a list of conversations")
    return [check_record(f"{name}[{index}]", item) for index, item in enumerate(value)]


def _check(
    where: str, value: Any, fields: dict[str, tuple[Check, str]], ignored: frozenset[str]
) -> None:
    if not isinstance(value, dict):
        raise InvalidParams(where, "must be a map")
    for name, (is_valid, form) in fields.items():
        if name not in value:
            raise InvalidParams(f"{where}.{name}", "is required")
        if not is_valid(value[name]):
            raise InvalidParams(f"{where}.{name}", f"must be {form}")
    if unknown := sorted(str(key) for key in value if key not in fields and key not in ignored):
        raise InvalidParams(f"{where}.{unknown[0]}", "is not a field of a conversation")
