"""The hint for folders that macOS protects: Documents, Desktop, Downloads and external disks.

macOS answers EPERM there until the user allows the program, or the terminal that runs it. File
permissions and root do not matter. Elsewhere EPERM has other causes, which the callers' own hints
fit.
"""

from __future__ import annotations

import errno
import sys

PRIVACY_HINT = (
    "macOS protects Documents, Desktop, Downloads and external disks. Allow the program in "
    "System Settings, Privacy & Security, Files and Folders, or move the file elsewhere."
)


def is_protected(exc: BaseException | None, platform: str = "") -> bool:
    """Return whether macOS's privacy protection refused access; `exc` or its cause says so.

    `platform` is this machine's by default.
    """
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno == errno.EPERM:
            return (platform or sys.platform) == "darwin"
        exc = exc.__cause__
    return False


def privacy_hint(exc: BaseException, otherwise: str, platform: str = "") -> str:
    """Return the hint for an error: what to allow on macOS, or else `otherwise`."""
    return PRIVACY_HINT if is_protected(exc, platform) else otherwise
