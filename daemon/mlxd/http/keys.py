"""The API key: a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from mlxd.protocol.errors import PermissionDenied

KEY_BYTES = 32


def load_or_create(path: Path) -> str:
    """Return the key of this user, after creating it if there is none.

    Raises:
        PermissionDenied: other users can read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written under another name and linked, so that nobody reads a key that is half written, and
    # of two processes that start together the second uses the key of the first.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, secrets.token_urlsafe(KEY_BYTES).encode() + b"\n")
            os.close(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionDenied(
            f"Other users can read the API key in {path}.", hint=f"Delete it: rm {path}"
        )
    return path.read_text("ascii").strip()
