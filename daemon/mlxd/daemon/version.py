"""The version of the running daemon."""

from __future__ import annotations

from mlxd.protocol.version import VERSION


def version() -> str:
    """Return the version of the code that this process runs.

    An upgrade on disk does not change it. It changes when the daemon restarts.
    """
    return VERSION
