"""Small and read-only file systems for a test, if this user may mount them."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import needs


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount an empty file system of `size` bytes at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=700", "mlxd-test", str(folder))
    try:
        yield folder
    finally:
        # Lazy unmount, because an exiting process may still have a file open.
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Mount `folder` read-only, also for root."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,bind,ro", str(folder))
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _mount(*arguments: str) -> None:
    command = [needs.program("mount"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        needs.missing(f"may not mount: {done.stderr.strip()}")


def fill(folder: Path) -> Path:
    """Write a file until the disk is full. Returns its path."""
    path = folder / "filler"
    block = b"x" * 4096
    with path.open("wb", buffering=0) as stream:
        while True:
            try:
                stream.write(block)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                return path
