"""The command `mlxd`: a module per command group, imported when it is called."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from mlxd.daemon.isolation import settle
from mlxd.protocol.errors import EXIT_INTERRUPTED, EXIT_USAGE, MlxdError

REPORT = "Please report this, with the output of the same command after: export MLX_TRACEBACK=1"
COMMANDS = {
    "run": "mlxd.daemon.cli.run:run",
    "start": "mlxd.daemon.cli.lifecycle:start",
    "stop": "mlxd.daemon.cli.lifecycle:stop",
    "restart": "mlxd.daemon.cli.lifecycle:restart",
    "status": "mlxd.daemon.cli.status:status",
    "logs": "mlxd.daemon.cli.logs:logs",
    "doctor": "mlxd.daemon.cli.doctor.command:doctor",
    "install": "mlxd.daemon.cli.service:install",
    "uninstall": "mlxd.daemon.cli.service:uninstall",
    "completion": "mlxd.daemon.cli.completion:completion",
}
"""Name of a command to where it is, in the order of the help."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

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
    """Run the command line; ends the process with an exit status of the table in the docs."""
    settle()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a terminal without → is no reason to die
    try:
        code = cli.main(args=arguments, prog_name="mlxd", standalone_mode=False) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
    except Exception as exc:
        code = _report(exc)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    _settle()
    sys.exit(code)


def _report(exc: Exception) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(exc, click.exceptions.Abort):
        return EXIT_INTERRUPTED
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, click.ClickException):
        return _misused(exc)
    if isinstance(exc, MlxdError):
        _say(describe(exc))
        return exc.exit_code
    if isinstance(exc, BrokenPipeError):
        return 0  # the reader left (`mlxd logs | head`)
    if isinstance(exc, OSError):
        where = f"{exc.filename}: " if exc.filename else ""
        _say(f"mlxd: {where}{exc.strerror or exc}.\n      See: mlxd doctor")
        return 1
    if os.environ.get("MLX_TRACEBACK"):
        traceback.print_exception(exc)
    _say(f"mlxd: Unexpected {type(exc).__name__}: {exc}\n      {REPORT}")
    return 1


def _misused(exc: click.ClickException) -> int:
    if type(exc).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later: a group by itself
        exc.show()
        return EXIT_USAGE
    ctx = getattr(exc, "ctx", None)
    path = ctx.command_path if ctx is not None else "mlxd"
    _say(f"mlxd: {exc.format_message()}\n      See: {path} --help")
    return EXIT_USAGE


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True)


def _settle() -> None:
    """Write what is buffered now: at exit, Python itself would report that it cannot."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def describe(error: MlxdError) -> str:
    """Return an error as people read it: what happened, then the next step."""
    lines = [f"mlxd: {error.message}"]
    if error.hint:
        lines.append(f"      {error.hint}")
    return "\n".join(lines)
