"""The `mlxd` command. Each subcommand is in a module that is imported when it runs."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from mlxd.daemon.cli.failures import exit_code_of
from mlxd.daemon.isolation import settle
from mlxd.protocol.errors import EXIT_INTERRUPTED

COMMANDS = {
    "run": "mlxd.daemon.cli.run:run",
    "start": "mlxd.daemon.cli.lifecycle:start",
    "stop": "mlxd.daemon.cli.lifecycle:stop",
    "restart": "mlxd.daemon.cli.lifecycle:restart",
    "status": "mlxd.daemon.cli.status:status",
    "logs": "mlxd.daemon.cli.logs:logs",
    "http": "mlxd.daemon.cli.http:http",
    "doctor": "mlxd.daemon.cli.doctor.command:doctor",
    "install": "mlxd.daemon.cli.service:install",
    "uninstall": "mlxd.daemon.cli.service:uninstall",
    "completion": "mlxd.daemon.cli.completion:completion",
}
"""Each subcommand and its `module:attribute`, in the order of the help."""


LONGEST_HELP = 1000


class LazyGroup(click.Group):
    """Imports a subcommand's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command's help, whole."""
        rows = [
            (name, command.get_short_help_str(LONGEST_HELP))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{meant}", ctx)
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(
            ctx, args
        )
        return found


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from mlxd.daemon.version import version

    click.echo(f"mlxd {version()}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Keep MLX language models warm in one background daemon.

    Ask it something: mlx ask "…"
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with a documented exit code."""
    settle()
    try:
        code = exit_code_of(lambda: _call(arguments))
        # Python now exits. An exception during that would be printed as a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
        sys.exit(code)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)


def _call(arguments: Sequence[str] | None) -> object:
    # `bin/mlxd` blocks it until the imports are complete.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    return cli.main(args=arguments, prog_name="mlxd", standalone_mode=False)
