"""The version of the installed distribution."""

from __future__ import annotations

import functools
from importlib import metadata


@functools.cache
def version() -> str:
    """Return the version of mlxd; `0+unknown` where it runs without being installed.

    Read once: after an upgrade the disk tells of a program that this process is not yet.
    """
    try:
        return metadata.version("mlxd")
    except metadata.PackageNotFoundError:
        return "0+unknown"
