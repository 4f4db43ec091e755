"""`mlx run` and `mlx help`, which other tools have."""

from __future__ import annotations

import sys
from typing import Any

import click

from mlxd.client.cli import ask
from mlxd.client.cli.chat import command as chat
from mlxd.client.cli.completion import complete_models
from mlxd.client.cli.groups import Group
from mlxd.client.cli.options import given, shared_options
from mlxd.client.cli.sections import Sectioned


@click.command(
    cls=Sectioned,
    epilog="\b\nExamples:\n"
    "  mlx run qwen3-4b                      chat\n"
    '  mlx run qwen3-4b "Why is the sky blue?"\n'
    "  git diff | mlx run qwen3-4b Summarise\n",
)
@click.argument("model", shell_complete=complete_models)
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@shared_options
def run(words: tuple[str, ...], **values: Any) -> int:
    """Ask MODEL, or chat with it if no prompt is given."""
    found = given(values)
    if words or not sys.stdin.isatty() or any(name in found for name in ("file", "edit")):
        return ask.run("ask", words, found)
    return chat.run(found)


# The argument sets the model. An option of the same name would override it.
run.params = [
    param for param in run.params if isinstance(param, click.Argument) or param.name != "model"
]


@click.command("help")
@click.argument("commands", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def show_help(ctx: click.Context, commands: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as `ask` or `models pull`."""
    assert ctx.parent is not None
    inner = ctx.parent
    for name in commands:
        command: click.Command | None = None
        if isinstance(inner.command, Group):
            _, command, _ = inner.command.resolve_command(inner, [name])
        if command is None:
            raise click.UsageError(f"{inner.command_path} has no command {name!r}.", inner)
        inner = click.Context(command, info_name=name, parent=inner)
    click.echo(inner.get_help())
