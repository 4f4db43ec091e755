"""How `mlxd` ends: every failure prints a message and a next step, and has a documented code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

import click

from mlxd.protocol.errors import EXIT_INTERRUPTED, EXIT_USAGE, MlxdError
from mlxd.protocol.privacy import privacy_hint
from mlxd.protocol.wrapping import folded

EXIT_UNEXPECTED = 1
REPORT = "Please report this, with the output of the same command after: export MLX_TRACEBACK=1"
INDENT = " " * len("mlxd: ")


def exit_code_of(command: Callable[[], object]) -> int:
    """Call `command` and return the exit code. Errors are printed to stderr."""
    try:
        complete_streams()
        status = command()
        code = status if isinstance(status, int) else 0
        sys.stdout.flush()
    except BaseException as exc:
        code = report(exc)
    _flush_or_drop(sys.stdout)
    _flush_or_drop(sys.stderr)
    return code


def report(exc: BaseException) -> int:
    """Print an error and return its exit code."""
    if isinstance(exc, (click.exceptions.Abort, KeyboardInterrupt)):
        return EXIT_INTERRUPTED
    if isinstance(exc, SystemExit):
        return _click_exit(exc)
    if isinstance(exc, click.exceptions.Exit):
        return exc.exit_code
    if isinstance(exc, click.ClickException):
        return _usage(exc)
    if isinstance(exc, MlxdError):
        say(exc.message, exc.hint)
        return exc.exit_code
    if isinstance(exc, OSError):
        return _system(exc)
    if os.environ.get("MLX_TRACEBACK"):
        traceback.print_exception(exc)
    say(f"Unexpected {type(exc).__name__}: {exc}", REPORT)
    return EXIT_UNEXPECTED


def say(message: str, hint: str = "") -> None:
    """Print a message to stderr, with the next step in a line below it."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(_fitted(f"mlxd: {message}"), err=True)
        if hint:
            more(hint)


def more(text: str) -> None:
    """Print a further line below a message."""
    click.echo(_fitted(f"{INDENT}{text}"), err=True)


def _fitted(text: str) -> str:
    """Wrap a message between words if stderr is a terminal that is narrower."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return text
    return folded(text, columns) if columns else text


def complete_streams() -> None:
    """Open /dev/null for standard streams that are closed.

    Otherwise the next file or socket that is opened would receive what is written to them. A
    closed stdout is opened for reading only, so that commands with output fail instead of
    losing it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
            setattr(sys, name, open(descriptor, "w" if number else "r"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for encodings that have no arrow


def _click_exit(exc: SystemExit) -> int:
    # How click ends, with status 1, when the reader left. It replaces stdout by a wrapper.
    if "PacifyFlushWrapper" in type(sys.stdout).__name__:
        return 0
    return exc.code if isinstance(exc.code, int) else EXIT_UNEXPECTED


def _usage(exc: click.ClickException) -> int:
    if type(exc).__name__ == "NoArgsIsHelpError":  # click 8.2 and later: a group without a command
        exc.show()
        return EXIT_USAGE
    ctx = getattr(exc, "ctx", None)
    path = ctx.command_path if ctx is not None else "mlxd"
    say(exc.format_message(), f"See: {path} --help")
    return EXIT_USAGE


def _system(exc: OSError) -> int:
    if isinstance(exc, BrokenPipeError):
        return 0  # the reader left (`mlxd logs | head`)
    if exc.errno == errno.EBADF and exc.filename is None:
        say("stdout is closed, so nothing can be printed.", "Redirect it: mlxd … >FILE")
        return EXIT_USAGE
    where = exc.filename or "Cannot read or write"
    hint = privacy_hint(exc, "Check the path, its permissions and the free space.")
    say(f"{where}: {exc.strerror or exc}.", hint)
    return EXIT_UNEXPECTED


def _flush_or_drop(stream: TextIO | None) -> None:
    """Write what is buffered. If that fails, drop it: Python would print a traceback at exit."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            assert stream is not None
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
