"""Where MLX keeps what it has compiled: in a folder that nobody else can write to.

On Linux MLX looks for compiled code in the folder for temporary files, by a name that anybody can
guess, and loads what lies there. In a `/tmp` for all users, somebody else could put it there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "TMPDIR"


def keep_kernels(
    folder: str | None, environ: MutableMapping[str, str], platform: str = sys.platform
) -> bool:
    """Name a safe folder to MLX, and make it where it is not there (any more); returns whether
    there is one. Call it before anything compiles.

    A temporary folder of the user's own stays: macOS gives everybody one.
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
    """Whether it is a folder of this user's, into which nobody else may write."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
