"""Tells other programs of this user where the bridge listens: a locked file with its URL.

The lock ends with the process, so a URL in a file without a lock is an old one.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def announce(path: Path, url: str) -> int | None:
    """Write the URL and hold the file's lock. Return its descriptor.

    None: another bridge holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{url}\n".encode())
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
