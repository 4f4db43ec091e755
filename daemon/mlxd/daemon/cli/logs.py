"""`mlxd logs`: the end of the daemon's log, and what is added to it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from mlxd.protocol.paths import resolve_paths

_BLOCK_BYTES = 65536
_POLL_S = 0.2


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=20, show_default=True, help="Lines."
)
def logs(follow: bool, lines: int) -> None:
    """Show the end of the daemon's log.

    It holds no prompt and no answer, unless log_text is on.
    """
    path = resolve_paths().log_file
    out = sys.stdout.buffer
    if not path.exists():
        click.echo(f"mlxd: There is no log yet at {path}. Start the daemon: mlxd start", err=True)
    else:
        out.write(tail(path, lines))
        out.flush()
    if follow:
        for added in additions(path):
            out.write(added)
            out.flush()


def tail(path: Path, lines: int) -> bytes:
    """Return the last `lines` lines of a file, reading no more of it than they need."""
    if lines == 0:
        return b""
    with path.open("rb") as stream:
        position = stream.seek(0, os.SEEK_END)
        found = b""
        while position > 0 and found.count(b"\n") <= lines:
            step = min(_BLOCK_BYTES, position)
            position -= step
            stream.seek(position)
            found = stream.read(step) + found
    return b"".join(found.splitlines(keepends=True)[-lines:])


def additions(path: Path) -> Iterator[bytes]:
    """Yield what is written to `path` from now on, across rotation. Never ends by itself."""
    stream = _open(path, at_end=True)
    while True:
        if stream is not None and (added := stream.read()):
            yield added
            continue
        if stream is None or _was_replaced(stream, path):
            if stream is not None:
                stream.close()
            stream = _open(path, at_end=False)
        time.sleep(_POLL_S)


def _open(path: Path, *, at_end: bool) -> BinaryIO | None:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return None
    if at_end:
        stream.seek(0, os.SEEK_END)
    return stream


def _was_replaced(stream: BinaryIO, path: Path) -> bool:
    mine = os.fstat(stream.fileno())
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino) or (
        there.st_size < stream.tell()
    )
