"""Groups of commands that say what a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import click


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question for the nearest names, with a blank before it; "": none is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


class Group(click.Group):
    """A group of commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(self._unknown(args[0], known), ctx)
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(
            ctx, args
        )
        return found

    def _unknown(self, name: str, known: list[str]) -> str:
        return f"There is no command {name!r}.{did_you_mean(name, known)}"


class Commands(Group):
    """The commands of `mlx`, each imported when it is called."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in self._table:
            return None
        module, function = self._table[cmd_name]
        command: click.Command = getattr(import_module(f"mlxd.client.cli.{module}"), function)
        return command

    def _unknown(self, name: str, known: list[str]) -> str:
        said = super()._unknown(name, known)
        # A question without its command is the likeliest mistake of all.
        return said if "Did you mean" in said else f'{said} To ask something: mlx ask "{name} …"'
