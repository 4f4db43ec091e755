"""Parameter kinds: how each kind is validated and normalised, and the error if it is invalid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlxd.protocol.conversations import check_records
from mlxd.protocol.errors import InvalidParams

REQUIRED: Any = object()
"""The default of a parameter that must be given."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a method: its kind, default, inclusive bounds and choices."""

    name: str
    kind: str
    doc: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the parameter has no default."""
        return self.default is REQUIRED

    def check(self, value: Any) -> Any:
        """Return the value in its normal form, or the default for None.

        Raises:
            InvalidParams: the value is invalid. The message names the parameter.
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
        low, high = self.minimum, self.maximum
        if (low is None or value >= low) and (high is None or value <= high):
            return
        if low is not None and high is not None:
            allowed = f"between {exact(low)} and {exact(high)}"
        else:
            allowed = f"at least {exact(low)}" if low is not None else f"at most {exact(high or 0)}"
        raise InvalidParams(self.name, f"must be {allowed}, not {exact(value)}")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int_or_nan(value):
        raise InvalidParams(name, "must be an integer")
    if not -(2**63) <= value < 2**63:
        raise InvalidParams(name, "must fit into 64 bits")
    return int(value)


def exact(value: float) -> str:
    """Return a number as text. Integers keep all their digits."""
    return str(int(value)) if value == int(value) and abs(value) < 2**63 else f"{value:g}"


def int_or_nan(value: float) -> float:
    """Return the integral part, or NaN for NaN and infinity."""
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


STRINGS_MAX, STRING_MAX_CHARS = 64, 1024
"""Limits on stop texts, because every token is searched for them on the compute thread."""


def _strings(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise InvalidParams(name, "must be a non-empty string or a list of them")
    if len(value) > STRINGS_MAX or any(len(item) > STRING_MAX_CHARS for item in value):
        limits = f"at most {STRINGS_MAX} texts of at most {STRING_MAX_CHARS} characters"
        raise InvalidParams(name, f"must be {limits}")
    return value


TOKEN_IDS_END = 2**31
"""Exclusive upper bound of token ids. The engine checks them against the model's vocabulary."""


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < TOKEN_IDS_END


def _token_ids(name: str, value: Any) -> list[int]:
    if not isinstance(value, list):
        raise InvalidParams(name, "must be a list of token ids")
    # Without a call for each of perhaps a million ids.
    if {*map(type, value)} <= {int} and (
        not value or 0 <= min(value) <= max(value) < TOKEN_IDS_END
    ):
        return value
    for item in value:
        if not _is_token_id(item):
            raise InvalidParams(name, f"{_short(item)} is not a token id (0 to 2147483647)")
    return value


def _short(value: Any) -> str:
    """Return the first characters of a value, for an error message."""
    text = repr(value) if isinstance(value, (int, float, str, bool)) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"


def _text_or_tokens(name: str, value: Any) -> str | list[int]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InvalidParams(name, "must be text or a non-empty list of token ids")
    return _token_ids(name, value)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        raise InvalidParams(name, "must map token ids to numbers between -100 and 100")
    bias = {_bias_token(name, token): _number(name, amount) for token, amount in value.items()}
    for token, amount in bias.items():
        if abs(amount) > 100:
            raise InvalidParams(name, f"{amount:g} for token {token} is not between -100 and 100")
    return bias


def _bias_token(name: str, key: Any) -> int:
    """Return the token id of a map key. JSON keys are strings; MessagePack keys may be integers."""
    token = key
    # Not `int()`: it takes "1_0", " 1", "+1" and digits of other scripts.
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
        token = int(key)
    if not _is_token_id(token):
        raise InvalidParams(name, f"{_short(key)} is not a token id (0 to 2147483647)")
    return int(token)


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
    content = item.get("content")
    if isinstance(content, list):
        item = {**item, "content": _joined(f"{where}.content", content)}
    elif not isinstance(content, str) and not (content is None and calls):
        raise InvalidParams(f"{where}.content", "must be a string or a list of text parts")
    for key in ("reasoning", "tool_call_id", "name"):
        if item.get(key) is not None and not isinstance(item[key], str):
            raise InvalidParams(f"{where}.{key}", "must be a string")
    checked: dict[str, Any] = item
    return checked


def _joined(where: str, parts: list[Any]) -> str:
    """Join a content list of `{type: "text", text}` parts into one text, as mlx-lm does."""
    for index, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise InvalidParams(f"{where}[{index}].type", 'must be "text"')
        if not isinstance(part.get("text"), str):
            raise InvalidParams(f"{where}[{index}].text", "must be a string")
    return "".join(part["text"] for part in parts)


TOOL_CHOICES = ("auto", "none", "required")


def function_of(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the function description of a tool, which may be wrapped in `{type, function}`."""
    function: dict[str, Any] = tool.get("function", tool)
    return function


def _tool_choice(name: str, value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"].get("name")
    if not isinstance(value, str) or not value:
        raise InvalidParams(name, f"must be {', '.join(TOOL_CHOICES)} or the name of a tool")
    return value


def _tools(name: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidParams(name, "must be a list of function descriptions")
    for index, item in enumerate(value):
        function = function_of(item)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidParams(f"{name}[{index}].function.name", "must be a string")
    return value


def _logprobs(name: str, value: Any) -> int:
    """Return the number of alternatives: 0 for True (the chosen token only), -1 for False."""
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
    "tool choice": _tool_choice,
    "logprobs": _logprobs,
    "conversations": check_records,
    "any": _anything,
}
"""Maps a parameter kind to the function that validates a value and returns its normal form."""
