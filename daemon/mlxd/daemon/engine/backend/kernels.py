"""Chooses a folder for MLX's compiled code to which no other user can write.

On Linux MLX loads compiled code from the folder for temporary files, under predictable names. In a
shared `/tmp` another user could plant code there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "TMPDIR"
NO_KERNELS = (
    "There is no private folder for kernels that MLX compiles, so it computes without them. "
    "Make the cache folder writable, or set TMPDIR to a folder that only you can write to."
)


def keep_kernels(
    folder: str | None, environ: MutableMapping[str, str], platform: str = sys.platform
) -> bool:
    """Point TMPDIR at a private folder, and create it if it is missing.

    Returns whether there is such a folder. Call this before anything is compiled. A TMPDIR that
    belongs to the user is kept. On macOS every user has one.
    """
    given = environ.get(VARIABLE)
    if not platform.startswith("linux") or (given and is_own(Path(given))):
        return True
    if folder is None:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    if not is_own(Path(folder)):
        return False
    environ[VARIABLE] = folder
    return True


def is_own(folder: Path) -> bool:
    """Return whether the folder belongs to this user and no other user may write to it."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
