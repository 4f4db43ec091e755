"""The settings of `/set`: the options of `mlx ask` that can change during a chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxd.client.cli.groups import did_you_mean
from mlxd.client.cli.options import absolute, schema
from mlxd.client.fast.options import LOCAL, OPTIONS, PRESETS
from mlxd.client.fast.text import FOLDERS
from mlxd.protocol.durations import seconds
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.methods import METHODS

SWITCH = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
PARSERS: dict[str, Callable[[str], object]] = {
    "int": int, "float": float, "str": str, "span": seconds, "schema": schema,
    "each": lambda text: [text], "true": SWITCH.__getitem__, "false": SWITCH.__getitem__,
}  # fmt: skip
EXAMPLES = {"int": "20", "float": "0.5", "span": "30m", "true": "on", "false": "on"}
FIXED = frozenset((
    "model", "conversation", "grammar", "logit_bias", "n", "logprobs", "log", "trust_remote_code",
))  # fmt: skip
"""Options of the option table that cannot change during a chat, or have their own command."""
SETTABLE: dict[str, str] = {
    name: kind.rstrip("*")
    for name, _, kind, _ in OPTIONS
    if kind.rstrip("*") in PARSERS and name not in LOCAL | FIXED
}
"""Maps the name of a setting to the kind of its value."""
SETTABLE["schema"] = "schema"
ALIASES = {
    "temp": "temperature", "timeout": "deadline_s", "keep_alive": "keep_alive_s",
    "think": "thinking",
}  # fmt: skip


def setting_names() -> list[str]:
    """Return the names that /set accepts, without aliases."""
    return sorted([*SETTABLE, "preset"])


def change(params: dict[str, Any], text: str) -> list[str]:
    """Apply `NAME VALUE`, or `NAME` to unset it. Return the lines to show.

    An empty text lists the current settings.

    Raises:
        InvalidParams: the setting does not exist, or the value is invalid.
    """
    name, _, value = text.partition(" ")
    name, value = name.replace("-", "_"), value.strip()
    name = ALIASES.get(name, name)
    if not name:
        return [f"{key} {params[key]}" for key in sorted(params.keys() & SETTABLE.keys())]
    if name == "preset" and value in PRESETS:
        params["temperature"], params["top_p"] = PRESETS[value]
        return [f"temperature {params['temperature']}, top_p {params['top_p']}"]
    if name not in SETTABLE:
        near = did_you_mean(name, setting_names()).strip()
        hint = near or "Known: " + ", ".join(setting_names())
        raise InvalidParams("/set", f"there is no setting {name!r}", hint=hint)
    if not value:
        params.pop(name, None)
        return [f"{name}: daemon default"]
    params[name] = _parse(name, value)
    return [f"{name} {params[name]}"]


def _parse(name: str, text: str) -> object:
    kind = SETTABLE[name]
    try:
        value = PARSERS[kind](text)
    except (ValueError, KeyError) as exc:
        hint = f"For example: /set {name} {EXAMPLES[kind]}"
        raise InvalidParams("/set", f"{name} cannot be {text!r}", hint=hint) from exc
    if name in FOLDERS and isinstance(value, str):
        value = absolute(value, name)
    try:
        return METHODS["chat"].param(name).check(value)
    except InvalidParams as exc:
        # Without a parameter: the error of `mlx ask` would name its flag.
        raise InvalidParams("", exc.message, hint=f"Unset it: /set {name}") from exc
