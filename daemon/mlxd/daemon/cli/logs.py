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
    stream = _open(path)
    if stream is None:
        click.echo(f"mlxd: There is no log yet at {path}. Start the daemon: mlxd start", err=True)
    else:
        out.write(tail(stream, lines))
        out.flush()
    for added in additions(path, stream) if follow else ():
        out.write(added)
        out.flush()


def tail(stream: BinaryIO, lines: int) -> bytes:
    """Return the last `lines` lines, reading no more than they need; leaves `stream` at its end."""
    end = position = stream.seek(0, os.SEEK_END)
    found = b""
    while lines and position > 0 and found.count(b"\n") <= lines:
        step = min(_BLOCK_BYTES, position)
        position -= step
        stream.seek(position)
        found = stream.read(step) + found
    # Where the tail ends, the rest begins: what was added meanwhile is neither lost nor doubled.
    stream.seek(end)
    return b"".join(found.splitlines(keepends=True)[-lines:]) if lines else b""


def additions(path: Path, stream: BinaryIO | None) -> Iterator[bytes]:
    """Yield what follows in `stream`, then in the files that take its place. Never ends."""
    while True:
        if stream is not None and (added := stream.read()):
            yield added
            continue
        if stream is None or _was_replaced(stream, path):
            if stream is not None:
                yield stream.read()  # what was written between the last look and the rotation
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
