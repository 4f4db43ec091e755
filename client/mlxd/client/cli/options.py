"""Builds click options from the option table, and requests from their values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.completion import (
    complete_conversations,
    complete_files,
    complete_models,
    complete_presets,
    complete_priorities,
    complete_templates,
)
from mlxd.client.cli.groups import did_you_mean
from mlxd.client.fast import text as fast_text
from mlxd.client.fast.options import (
    FILL_OPTIONS,
    INT_BITS,
    OPTIONS,
    PRESETS,
    PRIORITIES,
    long_flags,
    request_params,
)
from mlxd.client.fast.text import FOLDERS, scope
from mlxd.protocol.durations import seconds
from mlxd.protocol.methods import METHODS

Command = Callable[..., Any]


class Span(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """A duration, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return seconds(value) if isinstance(value, str) else value
        except ValueError as exc:
            self.fail(str(exc).rstrip("."), param, ctx)


class Int(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """An integer that fits into a message."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number: int = click.INT.convert(value, param, ctx)
        if number.bit_length() > INT_BITS:
            self.fail(f"{value!r} does not fit into 64 bits", param, ctx)
        return number


TYPES: dict[str, Any] = {"int": Int(), "float": float, "str": str, "each": str, "span": Span()}
ON, OFF = "true", "false"
NOT_IN_FILL = frozenset(
    ("system", "continue", "conversation", "log", "template", "param", "edit", "file", "thinking")
)
CHOICES: dict[str, tuple[str, ...]] = {"preset": (*PRESETS,), "priority": PRIORITIES}
COMPLETIONS = {
    "model": complete_models,
    "template": complete_templates,
    "preset": complete_presets,
    "file": complete_files,
    "schema": complete_files,
    "grammar": complete_files,
    "adapter": complete_files,
    "draft": complete_models,
    "priority": complete_priorities,
    "conversation": complete_conversations,
}


def shared_options(command: Command) -> Command:
    """Add the options of ask, chat and generate."""
    return _add(OPTIONS, command)


def fill_options(command: Command) -> Command:
    """Add the options of fill."""
    return _add(FILL_OPTIONS, _add(OPTIONS, command))


def _add(table: tuple[Any, ...], command: Command) -> Command:
    for name, flags, kind, text in reversed(table):
        command = _option(name, flags, kind.rstrip("*"), text + _default(name))(command)
    return command


def _default(name: str) -> str:
    """Return the part of a help text that states the default number."""
    try:
        default = METHODS["chat"].param(name).default
    except (KeyError, StopIteration):
        return ""
    # A negative default means "none".
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    return f"  [{default:g}]" if number and default >= 0 else ""


def _option(name: str, flags: tuple[str, ...], kind: str, text: str) -> Callable[..., Any]:
    if kind in (ON, OFF):
        # Both flags of a pair have the same name. The last one given applies.
        return click.option(
            *flags, name, flag_value=kind == ON, type=bool, default=None, help=text, is_flag=True
        )
    return click.option(
        *flags,
        name,
        type=TYPES[kind],
        multiple=kind == "each",
        help=text,
        shell_complete=COMPLETIONS.get(name),
    )


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the given options in the format of the fast path's parser."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == ():
            continue
        out[name] = list(value) if isinstance(value, tuple) else value
    return out


def params_of(command: str, values: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return the request's parameters. Raises click's usage errors."""
    for name, choices in CHOICES.items():
        if name in values and values[name] not in choices:
            raise click.BadParameter(
                f"must be one of {', '.join(choices)}{did_you_mean(values[name], choices)}",
                param_hint=f"--{name}",
            )
    if "continue" in values and "conversation" in values:
        raise click.UsageError("Give -c or --conversation, not both.")
    if command == "fill" and (lost := NOT_IN_FILL & values.keys()):
        flag = long_flags()[min(lost)]
        raise click.UsageError(f"{flag} cannot be used with fill, which has a prefix and a suffix.")
    params = request_params(command, values, prompt, scope())
    assert params is not None
    if "schema" in params:
        params["schema"] = schema(params["schema"])
    if "grammar" in params:
        params["grammar"] = _file_or_text(params["grammar"])
    if "logit_bias" in params:
        params["logit_bias"] = _json(params["logit_bias"], "--logit-bias")
    resolve_folders(params)
    return dict(params)


def absolute(name: str, param: str = "model") -> str:
    """Return the absolute path of a folder. Names are unchanged."""
    return str(fast_text.absolute(name, FOLDERS[param]))


def resolve_folders(params: dict[str, Any]) -> None:
    """Make folders of a request absolute, because the daemon's working folder differs."""
    for param in FOLDERS:
        if isinstance(params.get(param), str):
            params[param] = absolute(params[param], param)


FIELD = re.compile(r"[A-Za-z_]\w*")
SHORT_TYPES = {
    "str": "string", "string": "string", "int": "integer", "integer": "integer",
    "float": "number", "number": "number", "bool": "boolean", "boolean": "boolean",
}  # fmt: skip


def schema(text: str) -> dict[str, Any] | bool:
    """Return a schema from a file, from JSON, or from the short form `name, age int`."""
    content = _file_or_text(text).strip()
    if content.startswith("{") or content in ("true", "false"):
        parsed: dict[str, Any] | bool = _json(content, "--schema")
        return parsed
    properties = {}
    for field in content.split(","):
        words = field.split()
        known = len(words) == 1 or (len(words) == 2 and words[1] in SHORT_TYPES)
        if not known or not FIELD.fullmatch(words[0]):
            raise click.BadParameter(
                f"{field.strip()!r} is neither a file nor `name` or `name type`. "
                "Types: str, int, float, bool",
                param_hint="--schema",
            )
        properties[words[0]] = {"type": SHORT_TYPES[words[1] if len(words) == 2 else "str"]}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json(text: str, flag: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise click.BadParameter(f"is not JSON: {exc}", param_hint=flag) from exc


def _file_or_text(text: str) -> str:
    try:
        path = Path(text)
        return path.read_text(encoding="utf-8") if path.is_file() else text
    except (OSError, ValueError):
        return text
