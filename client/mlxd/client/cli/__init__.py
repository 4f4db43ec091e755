"""The full `mlx` program: every command, option and help text. The fast path starts it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mlxd.client.cli.failures import end
from mlxd.client.cli.groups import Commands

COMMANDS = {
    "ask": ("ask", "ask"),
    "generate": ("ask", "generate"),
    "fill": ("ask", "fill"),
    "chat": ("chat.command", "chat"),
    "batch": ("batch", "batch"),
    "ps": ("memory", "ps"),
    "load": ("memory", "load"),
    "unload": ("memory", "unload"),
    "models": ("models", "models"),
    "log": ("log", "log"),
    "templates": ("templates", "templates"),
    "launch": ("launch.command", "launch"),
    "rpc": ("rpc", "rpc"),
    "shell-init": ("shell_init", "shell_init"),
    "completion": ("completion", "completion"),
    "run": ("run", "run"),
    "help": ("run", "show_help"),
}
"""Maps a command to (module, function). The module is imported when the command is called."""

ALIASES = {
    "pull": ("models", "pull"),
    "list": ("models", "list_models"),
    "ls": ("models", "list_models"),
    "rm": ("models", "rm"),
    "show": ("models", "show_model"),
    "stop": ("memory", "unload"),
}
"""Commands that other tools use, for commands of `mlx`. They have no help of their own."""


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mlxd.protocol.version import VERSION

        click.echo(f"mlx {VERSION}")
        ctx.exit()


@click.group(
    cls=Commands,
    table=COMMANDS,
    aliases=ALIASES,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`mlxd` controls the daemon. A request starts it if it is not running.\n\n"
    "As in other tools, `mlx pull`, `list`, `rm` and `show` are short for `mlx models …`, and "
    "`mlx stop` is `mlx unload`.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Ask local language models that mlxd keeps warm.

    \b
      mlx ask "Why is the sky blue?"
      git diff | mlx ask "Summarise"
      mlx chat
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with a documented code."""
    end(cli, list(sys.argv[1:] if arguments is None else arguments))
