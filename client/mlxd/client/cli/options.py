"""click options from the one table, and what they become."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.completion import (
    complete_files,
    complete_models,
    complete_presets,
    complete_templates,
)
from mlxd.client.fast.mlx_fast_text import scope
from mlxd.client.fast.mlx_options import FILL_OPTIONS, OPTIONS, PRESETS, request_params
from mlxd.protocol.errors import InvalidParams

Command = Callable[..., Any]
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "each": str}
ON, OFF = "true", "false"
COMPLETIONS = {
    "model": complete_models,
    "template": complete_templates,
    "preset": complete_presets,
    "file": complete_files,
}


def shared_options(command: Command) -> Command:
    """Add the options of ask, chat and generate."""
    return _add(OPTIONS, command)


def fill_options(command: Command) -> Command:
    """Add the options of fill."""
    return _add(FILL_OPTIONS, _add(OPTIONS, command))


def _add(table: tuple[Any, ...], command: Command) -> Command:
    for name, flags, kind, text in reversed(table):
        command = _option(name, flags, kind.rstrip("*"), text)(command)
    return command


def _option(name: str, flags: tuple[str, ...], kind: str, text: str) -> Callable[..., Any]:
    if kind in (ON, OFF):
        # Both flags of a pair have the same name; the one given last wins.
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
    """Return the options that were given, in the form that the fast path's parser has."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == ():
            continue
        out[name] = list(value) if isinstance(value, tuple) else value
    return out


def params_of(command: str, values: dict[str, Any], prompt: str) -> dict[str, Any]:
    """Return the request's parameters. Raises click's usage errors."""
    preset = values.get("preset")
    if preset is not None and preset not in PRESETS:
        raise click.BadParameter(f"must be one of {', '.join(PRESETS)}", param_hint="--preset")
    if "continue" in values and "conversation" in values:
        raise click.UsageError("Give -c or --conversation, not both.")
    if command == "fill" and not values.keys().isdisjoint(("continue", "conversation", "log")):
        raise click.UsageError("fill belongs to no conversation.")
    params = request_params(command, values, prompt, scope())
    assert params is not None
    if "schema" in params:
        params["schema"] = schema(params["schema"])
    if "grammar" in params:
        params["grammar"] = _file_or_text(params["grammar"])
    if "logit_bias" in params:
        params["logit_bias"] = _json(params["logit_bias"], "--logit-bias")
    if "model" in params:
        params["model"] = absolute(params["model"])
    return dict(params)


def absolute(model: str) -> str:
    """Return a folder's absolute path; anything else as it is."""
    looks_like_path = "/" in model or model.startswith(".")
    if looks_like_path and Path(model, "config.json").exists():
        return str(Path(model).absolute())
    return model


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
        if not words or len(words) > 2 or (len(words) == 2 and words[1] not in SHORT_TYPES):
            raise click.BadParameter(
                f"{field.strip()!r} is not `name` or `name type`; types: str, int, float, bool",
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


def prompt_of(words: tuple[str, ...], files: list[str]) -> str:
    """Return files, words and stdin as one prompt.

    Raises:
        InvalidParams: a file is missing or is no text.
    """
    parts = [_fenced(name) for name in files]
    if words:
        parts.append(" ".join(words))
    if "-" not in files and not sys.stdin.isatty():
        piped = _as_text(sys.stdin.buffer.read(), "stdin")
        if piped.strip():
            parts.append(piped)
    return "\n\n".join(parts)


def _fenced(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as exc:
        raise InvalidParams("--file", f"{name} cannot be read: {exc.strerror}") from exc
    text = _as_text(raw, name)
    fence = "````" if "```" in text else "```"
    return f"{'stdin' if name == '-' else name}:\n{fence}\n{text.rstrip()}\n{fence}"


def _as_text(raw: bytes, name: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidParams(
            name, "is binary, and a prompt is text", hint="Give a text file, in UTF-8."
        )
    return text
