"""Ends `mlx`: each failure prints a message and a next step, and has a documented exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from mlxd.client.cli.terminal import fitted
from mlxd.client.fast.options import refusal
from mlxd.client.fast.text import UNKNOWN_TO_THEM, VERSION, skew
from mlxd.client.sync import Client
from mlxd.protocol.errors import EXIT_INTERRUPTED, EXIT_USAGE, MlxdError
from mlxd.protocol.privacy import privacy_hint

ADVICE_TIMEOUT_S = 5.0
EXIT_UNEXPECTED = 1
REPORT = "Please report this, with the output of the same command after: export MLX_TRACEBACK=1"


class Misuse(click.UsageError):
    """A command line, or a file that it names, cannot be used. `hint` is the next step."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def run(command: click.Group, arguments: list[str]) -> int:
    """Run a command line and return its exit code. Prints errors to stderr."""
    try:
        try:
            _complete_streams()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            status: Any = command.main(args=arguments, prog_name="mlx", standalone_mode=False)
            code = status if isinstance(status, int) else 0
            sys.stdout.flush()
        except BaseException as exc:
            code = report(exc, command, arguments)
        _settle(sys.stdout)
        _settle(sys.stderr)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    return code


def end(command: click.Group, arguments: list[str]) -> NoReturn:
    """Run a command line and exit with its code, even if a Ctrl-C arrives."""
    try:
        code = run(command, arguments)
        # Python now exits. An exception during that would be printed as a traceback.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
        sys.exit(code)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)


def report(exc: BaseException, command: click.Group, arguments: list[str]) -> int:
    """Print an error and return its exit code."""
    if isinstance(exc, (click.exceptions.Abort, KeyboardInterrupt)):
        _say("")
        return EXIT_INTERRUPTED
    if isinstance(exc, SystemExit):
        return exc.code if isinstance(exc.code, int) else EXIT_UNEXPECTED
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, click.ClickException):
        _usage(exc)
        return EXIT_USAGE
    if isinstance(exc, MlxdError):
        return _refused(exc, command, arguments)
    if isinstance(exc, OSError):
        return _system(exc)
    if os.environ.get("MLX_TRACEBACK"):
        traceback.print_exception(exc)
    _say(f"mlx: Unexpected {type(exc).__name__}: {exc}\n     {REPORT}")
    return EXIT_UNEXPECTED


def message_and_hint(exc: MlxdError | click.ClickException, called: str) -> tuple[str, str]:
    """Return (message, hint) of an error of the daemon or of the command line."""
    if isinstance(exc, click.ClickException):
        return exc.format_message(), getattr(exc, "hint", "")
    message, hint = refusal(exc.to_map(), called)
    return str(message), str(hint)


def _usage(exc: click.ClickException) -> None:
    """Print the error of a command line and the command that shows its help."""
    # Click 8.2 and later raises it for a group without a command.
    if type(exc).__name__ == "NoArgsIsHelpError":
        exc.show()
        return
    ctx = getattr(exc, "ctx", None)
    path = ctx.command_path if ctx is not None else "mlx"
    hint = getattr(exc, "hint", "") or f"See: {path} --help"
    _say(f"mlx: {exc.format_message()}\n     {hint}")


def _refused(error: MlxdError, command: click.Group, arguments: list[str]) -> int:
    called, path = _called(command, arguments)
    message, hint = refusal(error.to_map(), path, _flags(called))
    _say(f"mlx: {message}\n     {hint}")
    if advice := _advice(error):
        _say(advice)
    return error.exit_code


def _system(exc: OSError) -> int:
    if isinstance(exc, BrokenPipeError):
        return 0  # the reader has ended (`mlx ask | head`)
    where = f"{exc.filename}: " if exc.filename else "Cannot read or write: "
    hint = privacy_hint(exc, "Check the path, its permissions and the free space.")
    _say(f"mlx: {where}{exc.strerror or exc}.\n     {hint}")
    return EXIT_UNEXPECTED


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        click.echo(fitted(text, sys.stderr), err=True)


def _complete_streams() -> None:
    """Open /dev/null for standard streams that are closed.

    Otherwise the next opened file or socket would get their number, and their output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            if number == 1:
                raise click.UsageError("stdout is closed, so nothing can be printed.")
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, "r" if number == 0 else "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for encodings without →


def _settle(stream: Any) -> None:
    """Flush now. At exit, Python would report a failure itself."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _advice(error: MlxdError) -> str:
    """Return advice if a daemon of another version refuses something unknown to it."""
    if error.code not in UNKNOWN_TO_THEM:
        return ""
    try:
        with Client(timeout=ADVICE_TIMEOUT_S) as client:
            theirs = str(client.request("hello").get("version", VERSION))
            return str(skew(theirs))
    except (MlxdError, OSError):
        return ""


def _called(command: click.Command, words: list[str]) -> tuple[click.Command, str]:
    """Return the command that a line calls, and its name, as far as its words are commands."""
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
    """Return how the command line spells the parameters of a command."""
    found: dict[str, str] = {}
    for param in command.params:
        long = [flag for flag in param.opts if flag.startswith("--")]
        if param.name is not None and long:
            found.setdefault(param.name, long[0])
    return found
