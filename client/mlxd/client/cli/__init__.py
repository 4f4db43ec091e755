"""The full `mlx` program: every command, every option, help. The fast path hands over to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from mlxd.client.cli.groups import Commands
from mlxd.client.fast.mlx_fast_text import UNKNOWN_TO_THEM, VERSION, skew
from mlxd.client.fast.mlx_options import refusal
from mlxd.client.sync import Client
from mlxd.protocol.errors import EXIT_INTERRUPTED, MlxdError

ADVICE_TIMEOUT_S = 5.0

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


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"mlx {version('mlxd')}")
        ctx.exit()


@click.group(
    cls=Commands,
    table=COMMANDS,
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
        _usage(exc)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except MlxdError as error:
        words = list(sys.argv[1:] if arguments is None else arguments)
        command, path = _called(words)
        message, hint = refusal(error.to_map(), path, _flags(command))
        click.echo(f"mlx: {message}\n     {hint}", err=True)
        if advice := _advice(error):
            click.echo(advice, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Who reads us has enough; Python must not complain about it at exit either.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _advice(error: MlxdError) -> str:
    """Return the line of advice where a daemon of another version refuses what it does not know."""
    if error.code not in UNKNOWN_TO_THEM:
        return ""
    try:
        with Client(timeout_s=ADVICE_TIMEOUT_S) as client:
            theirs = str(client.request("hello").get("version", VERSION))
            return str(skew(theirs))
    except (MlxdError, OSError):
        return ""


def _usage(exc: click.UsageError) -> None:
    """Say what is wrong with a command line, and where it is described."""
    if type(exc).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later: a group by itself
        exc.show()
        return
    path = exc.ctx.command_path if exc.ctx is not None else "mlx"
    click.echo(f"mlx: {exc.format_message()}\n     See: {path} --help", err=True)


def _called(words: list[str]) -> tuple[click.Command, str]:
    """Return which command a line calls, and its name, as far as its words are commands."""
    command: click.Command = cli
    path: list[str] = []
    for word in words:
        if not isinstance(command, click.Group):
            break
        inner = command.get_command(click.Context(command), word)
        if inner is None:
            break
        command = inner
        path.append(word)
    return command, " ".join(path)


def _flags(command: click.Command) -> dict[str, str]:
    """Return how the parameters of a command are written."""
    found: dict[str, str] = {}
    for param in command.params:
        long = [flag for flag in param.opts if flag.startswith("--")]
        if param.name is not None and long:
            found.setdefault(param.name, long[0])
    return found
