"""The full `mlx` program: every command, every option, help. The fast path hands over to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from mlxd.protocol.errors import EXIT_INTERRUPTED, MlxdError

COMMANDS = {
    "ask": ("ask", "ask"),
    "generate": ("ask", "generate"),
    "fill": ("ask", "fill"),
    "chat": ("chat", "chat"),
    "batch": ("batch", "batch"),
    "ps": ("residents", "ps"),
    "load": ("residents", "load"),
    "unload": ("residents", "unload"),
    "models": ("models", "models"),
    "log": ("log", "log"),
    "templates": ("templates", "templates"),
    "rpc": ("rpc", "rpc"),
    "shell-init": ("shell_init", "shell_init"),
    "completion": ("completion", "completion"),
}
"""Command to (module, function); imported when it is called."""


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"mlxd.client.cli.{module}"), function)
        return command


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"mlx {version('mlxd')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The daemon behind it is controlled by `mlxd`; asking starts it if need be.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version)
def cli() -> None:
    """Ask local language models that mlxd keeps warm.

    \b
      mlx ask "Why is the sky blue?"
      git diff | mlx ask "Summarise"
      mlx chat
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with the codes of the documentation."""
    try:
        status: Any = cli.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="mlx",
            standalone_mode=False,
        )
    except click.UsageError as exc:
        exc.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except MlxdError as error:
        click.echo(f"mlx: {error.message}\n     {error.hint}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Who reads us has enough; Python must not complain about it at exit either.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)
