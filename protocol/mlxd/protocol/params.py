"""Parameter kinds: what a value may be, and the words that say so when it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlxd.protocol.errors import InvalidParams

REQUIRED: Any = object()
"""Marks a parameter without a default."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a method: its kind, default and bounds (inclusive)."""

    name: str
    kind: str
    doc: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def check(self, value: Any) -> Any:
        """Return the value in its normal form.

        Raises:
            InvalidParams: names the parameter and what it must be.
        """
        if value is None and not self.required:
            return self.default
        value = KINDS[self.kind](self.name, value)
        if self.choices and value not in self.choices:
            raise InvalidParams(self.name, f"must be one of {', '.join(self.choices)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self._check_bounds(value)
        return value

    def _check_bounds(self, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise InvalidParams(self.name, f"must be at least {self.minimum:g}, not {value:g}")
        if self.maximum is not None and value > self.maximum:
            raise InvalidParams(self.name, f"must be at most {self.maximum:g}, not {value:g}")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int_or_nan(value):
        raise InvalidParams(name, "must be an integer")
    if not -(2**63) <= value < 2**63:
        raise InvalidParams(name, "must be an integer of 64 bits")
    return int(value)


def int_or_nan(value: float) -> float:
    """Return the integral part, or NaN (which equals nothing) where there is none."""
    return int(value) if math.isfinite(value) else math.nan


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParams(name, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidParams(name, "must be a finite number")
    return number


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidParams(name, "must be true or false")
    return value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidParams(name, "must be a string")
    return value


def _map(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidParams(name, "must be a map with string keys")
    return value


def _strings(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise InvalidParams(name, "must be a non-empty string or a list of them")
    return value


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**31 for item in value
    ):
        raise InvalidParams(name, "must be a list of token ids")
    return value


def _text_or_tokens(name: str, value: Any) -> str | list[int]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InvalidParams(name, "must be text or a non-empty list of token ids")
    return _token_ids(name, value)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    problem = "must map token ids to numbers between -100 and 100"
    if not isinstance(value, dict):
        raise InvalidParams(name, problem)
    try:
        bias = {int(token): _number(name, amount) for token, amount in value.items()}
    except (TypeError, ValueError):
        raise InvalidParams(name, problem) from None
    if any(token < 0 or abs(amount) > 100 for token, amount in bias.items()):
        raise InvalidParams(name, problem)
    return bias


def _schema(name: str, value: Any) -> dict[str, Any] | bool:
    if isinstance(value, bool):
        return value
    return _map(name, value)


def _message_id(name: str, value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidParams(name, "must be an integer or a string")
    return value


ROLES = ("system", "user", "assistant", "tool")
_MESSAGE_KEYS = {"role", "content", "reasoning", "tool_calls", "tool_call_id", "name"}


def _messages(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise InvalidParams(name, "must be a non-empty list of {role, content}")
    return [_message(f"{name}[{index}]", item) for index, item in enumerate(value)]


def _message(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise InvalidParams(where, "must be a map {role, content}")
    if unknown := sorted(str(key) for key in item if key not in _MESSAGE_KEYS):
        raise InvalidParams(f"{where}.{unknown[0]}", "is not a field of a message")
    if item.get("role") not in ROLES:
        raise InvalidParams(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    calls = item.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise InvalidParams(f"{where}.tool_calls", "must be a list")
    if not isinstance(item.get("content"), str) and not (item.get("content") is None and calls):
        raise InvalidParams(f"{where}.content", "must be a string")
    for key in ("reasoning", "tool_call_id", "name"):
        if item.get(key) is not None and not isinstance(item[key], str):
            raise InvalidParams(f"{where}.{key}", "must be a string")
    return item


def _tools(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidParams(name, "must be a list of function descriptions")
    for index, item in enumerate(value):
        function = item.get("function", item)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidParams(f"{name}[{index}].function.name", "must be a string")
    return value


def _logprobs(name: str, value: Any) -> int:
    """True means the chosen token only, a number also that many alternatives."""
    if value is True:
        return 0
    if value is False:
        return -1
    return _integer(name, value)


def _anything(_name: str, value: Any) -> Any:
    return value


KINDS: dict[str, Callable[[str, Any], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "map": _map,
    "strings": _strings,
    "token ids": _token_ids,
    "text or token ids": _text_or_tokens,
    "logit bias": _logit_bias,
    "schema": _schema,
    "message id": _message_id,
    "messages": _messages,
    "tools": _tools,
    "logprobs": _logprobs,
    "any": _anything,
}
"""Kind of a parameter to the function that checks a value and returns its normal form."""
