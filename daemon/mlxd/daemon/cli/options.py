"""Command options, made from the table of settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mlxd.daemon.config import SETTINGS
from mlxd.daemon.settings import BadValue, Setting


class SettingType(click.ParamType):  # type: ignore[type-arg]  # no generic before click 8.5
    """Parses an option as the environment variable of its setting is parsed."""

    def __init__(self, entry: Setting) -> None:
        self._entry = entry
        self.name = {"seconds": "seconds", "keep-alive": "seconds", "bytes": "size"}.get(
            entry.kind, "integer" if entry.kind == "integer" else "text"
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._entry.parse(value)
        except BadValue as exc:
            self.fail(f"must be {exc}, not {value!r}", param, ctx)


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for every setting to a command. Options that are not given are None."""
    for entry in reversed(SETTINGS.values()):
        command = _option(entry)(command)
    return command


def _option(entry: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = entry.name.replace("_", "-")
    if entry.kind == "boolean":
        return click.option(f"--{flag}/--no-{flag}", entry.name, default=None, help=entry.doc)
    return click.option(
        f"--{flag}", entry.name, type=SettingType(entry), default=None, help=entry.doc
    )


def as_flags(values: dict[str, Any]) -> list[str]:
    """Return settings as command-line options, without those that are None."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            flags.append(f"--{flag}={':'.join(value)}")
        elif value is not None:
            flags.append(f"--{flag}={value}")
    return flags
