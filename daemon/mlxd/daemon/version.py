"""The version of the installed distribution."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the version of mlxd; `0+unknown` where it runs without being installed."""
    try:
        return metadata.version("mlxd")
    except metadata.PackageNotFoundError:
        return "0+unknown"
