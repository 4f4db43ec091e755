"""Builds a prompt from words, files and stdin, all read by the same rules."""

from __future__ import annotations

import codecs
import re
import stat
import sys
from pathlib import Path
from typing import IO

import click

from mlxd.client.cli.failures import Misuse
from mlxd.client.fast.text import INPUT_MAX_BYTES
from mlxd.protocol.errors import InvalidParams
from mlxd.protocol.privacy import privacy_hint

BACKTICKS = re.compile("`{3,}")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def prompt_of(words: tuple[str, ...], files: list[str]) -> str:
    """Return files, words and stdin as one prompt. The word `-` stands for stdin.

    Raises:
        Misuse: a file is missing or is not text.
    """
    said = [word for word in words if word != "-"]
    parts = [fenced(name) for name in files]
    if said:
        parts.append(" ".join(said))
    if "-" not in files and ("-" in words or not sys.stdin.isatty()):
        piped = as_text(read_stdin(), "stdin")
        if piped.strip():
            parts.append(piped)
    return "\n\n".join(parts)


def fenced(name: str) -> str:
    """Return a file (`-`: stdin) as part of a prompt: its name, and its text in a fence.

    Raises:
        Misuse: it is missing or is not text.
    """
    text = as_text(read_stdin() if name == "-" else read_file(name), name)
    # Longer than any fence in the file, so that those do not end it.
    fence = "`" * max(3, 1 + max((len(run) for run in BACKTICKS.findall(text)), default=0))
    return f"{'stdin' if name == '-' else name}:\n{fence}\n{text.rstrip()}\n{fence}"


def read_stdin() -> bytes:
    """Return all of stdin."""
    try:
        return _bounded(sys.stdin.buffer, "stdin")
    except OSError as exc:
        raise Misuse(
            f"stdin cannot be read: {exc.strerror}.", hint="Give a file or a pipe: mlx ask … < FILE"
        ) from exc


def read_file(name: str) -> bytes:
    """Return the content of a file.

    Raises:
        Misuse: it cannot be read.
        InvalidParams: it is too large.
    """
    try:
        with open(name, "rb") as file:
            return _bounded(file, name)
    except (OSError, ValueError) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else str(exc)
        hint = privacy_hint(exc, "Check its name: ls -l")
        raise Misuse(f"{name} cannot be read: {problem}.", hint=hint) from exc


def _bounded(file: IO[bytes], name: str) -> bytes:
    raw = file.read(INPUT_MAX_BYTES + 1)
    if len(raw) > INPUT_MAX_BYTES:
        raise InvalidParams(
            "", f"{name} has more than {INPUT_MAX_BYTES // 1_000_000} MB.", hint="Send less."
        )
    return raw


def as_text(raw: bytes, name: str) -> str:
    """Decode bytes as UTF-8, or according to their byte order mark.

    Raises:
        Misuse: they are not text.
    """
    what = "stdin" if name == "-" else name
    mark, encoding = next(
        ((mark, kind) for mark, kind in BYTE_ORDER_MARKS if raw.startswith(mark)), (b"", "utf-8")
    )
    if encoding == "utf-8" and b"\0" in raw:
        raise Misuse(f"{what} is binary, and a prompt is text.", hint="Give a text file.")
    try:
        return raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as exc:
        at = len(mark) + exc.start
        problem = (
            f"is binary, or its encoding is not {encoding.upper()} (byte {at} is {raw[at]:#x})"
        )
        hint = "Convert text to UTF-8, for example from Latin 1: iconv -f latin1 -t utf-8"
        raise Misuse(f"{what} {problem}.", hint=hint) from exc


def edited(text: str | None = None, *, filename: str | None = None) -> str:
    """Open a text or a file in $EDITOR and return the result.

    Raises:
        Misuse: the editor cannot be started, or failed.
    """
    try:
        if filename is not None:
            click.edit(filename=filename)
            return ""
        return click.edit(text, require_save=False, extension=".md") or ""
    except (click.ClickException, OSError, ValueError) as exc:
        problem = exc.format_message() if isinstance(exc, click.ClickException) else str(exc)
        raise Misuse(
            f"The editor failed: {problem.rstrip('.')}.", hint="Set EDITOR to another editor."
        ) from exc


def same_file(one: str, other: str) -> bool:
    """Return whether two names refer to the same regular file."""
    try:
        first, second = Path(one).stat(), Path(other).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(first.st_mode) and (first.st_dev, first.st_ino) == (
        second.st_dev,
        second.st_ino,
    )
