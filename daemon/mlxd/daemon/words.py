"""Files for what processes say outside of the log: bounded, private, and never a reason to fail."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def append_to(path: Path, max_bytes: int) -> int:
    """Return a descriptor that appends to `path` and can be read, emptied first if too long.

    Where the file cannot be opened (a folder that is read-only, or of somebody else) it is one
    without a name: the words are lost with the process then, and it starts all the same.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    if os.fstat(descriptor).st_size > max_bytes:
        os.ftruncate(descriptor, 0)
    return descriptor
