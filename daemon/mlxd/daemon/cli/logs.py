"""`mlxd logs`: show the end of the daemon's log, and follow it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from mlxd.daemon.cli.failures import say
from mlxd.daemon.cli.log_lines import formatted
from mlxd.protocol.paths import resolve_paths

_BLOCK_BYTES = 65536
_POLL_S = 0.2


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Keep printing lines as they are added.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Start with the last N lines.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the log's own lines, which are JSON.")
def logs(follow: bool, lines: int, as_json: bool) -> None:
    """Show the end of the daemon's log, in local time.

    The log has no prompts and no answers unless log_text is on.
    """
    path = resolve_paths().log_file
    stream = _open(path)
    show = _raw if as_json else _readable
    if stream is None:
        say(f"There is no log at {path} yet.", "Start the daemon: mlxd start")
    else:
        show([tail(stream, lines)])
    if follow:
        show(additions(path, stream))


def _raw(chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _readable(chunks: Iterable[bytes]) -> None:
    on_terminal = sys.stdout.isatty()
    colour = on_terminal and not os.environ.get("NO_COLOR")
    for line in whole_lines(chunks):
        width = shutil.get_terminal_size().columns if on_terminal else None
        click.echo(formatted(line, width=width, colour=colour), color=colour)


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, however they are split into chunks. The last one may lack its end."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def tail(stream: BinaryIO, lines: int) -> bytes:
    """Return the last `lines` lines, read from the end, and leave `stream` at its end."""
    end = position = stream.seek(0, os.SEEK_END)
    found = b""
    while lines and position > 0 and found.count(b"\n") <= lines:
        step = min(_BLOCK_BYTES, position)
        position -= step
        stream.seek(position)
        found = stream.read(step) + found
    # `additions` continues here, so that lines added meanwhile are neither lost nor repeated.
    stream.seek(end)
    return b"".join(found.splitlines(keepends=True)[-lines:]) if lines else b""


def additions(path: Path, stream: BinaryIO | None) -> Iterator[bytes]:
    """Yield what is appended to `stream`, then to the files that replace it. Never ends."""
    while True:
        if stream is not None and (added := stream.read()):
            yield added
            continue
        if stream is None or _was_replaced(stream, path):
            if stream is not None:
                yield stream.read()  # written between the last read and the rotation
                stream.close()
            stream = _open(path)
        time.sleep(_POLL_S)


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _was_replaced(stream: BinaryIO, path: Path) -> bool:
    mine = os.fstat(stream.fileno())
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino) or (
        there.st_size < stream.tell()
    )
