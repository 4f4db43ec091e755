"""Groups of commands that suggest the nearest command for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import click

LONGEST_HELP = 1000
Places = dict[str, tuple[str, str]]
"""Maps the name of a command to (module, function)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" with the nearest names, or "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


class Group(click.Group):
    """A group of commands. Its help has the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(LONGEST_HELP))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def known_commands(self, ctx: click.Context) -> list[str]:
        """Return every name that calls a command."""
        return self.list_commands(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.known_commands(ctx)
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

    def __init__(
        self, *args: Any, table: Places, aliases: Places | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._table = table
        self._places = {**table, **(aliases or {})}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def known_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in self._places:
            return None
        module, function = self._places[cmd_name]
        command: click.Command = getattr(import_module(f"mlxd.client.cli.{module}"), function)
        return command

    def _unknown(self, name: str, known: list[str]) -> str:
        said = super()._unknown(name, known)
        # A prompt without `ask` is the most likely mistake.
        return said if "Did you mean" in said else f'{said} To ask a question: mlx ask "{name} …"'
