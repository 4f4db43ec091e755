"""Downloads one large file, and resumes after a broken connection or a killed process.

huggingface_hub discards a file whose download was interrupted. This module keeps the part beside
the cache's blobs and requests only the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from mlxd.protocol.errors import HubUnreachable

TRIES = 5
"""Consecutive tries without any data."""
PAUSE_S = 1.0
CHUNK_BYTES = 256 * 1024
HASH_BYTES = 4 * 2**20


def partial_path(blob: Path) -> Path:
    """Return the path of a partly downloaded blob."""
    return blob.with_name(f"{blob.name}.mlxd-partial")


def download(url: str, blob: Path, size: int, sha256: str, came: Callable[[int], None]) -> None:
    """Download `url` to `blob`, or the missing part of it. `came` receives the bytes so far.

    Raises:
        HubUnreachable: the file's size or hash differs from what the hub stated.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(blob)
    with partial.open("ab") as stream:
        # A second download of the same file waits for the first, then finds the file.
        fcntl.flock(stream, fcntl.LOCK_EX)
        if blob.exists():
            partial.unlink(missing_ok=True)
            return
        _fetch(url, stream, size, came)
        if stream.tell() != size or _sha256(partial) != sha256:
            partial.unlink()
            raise HubUnreachable(
                f"The download of {url} was damaged on the way and has been deleted.",
                hint="Run the same command again.",
            )
        partial.rename(blob)


def _fetch(url: str, stream: BinaryIO, size: int, came: Callable[[int], None]) -> None:
    tries = 0
    while (before := stream.tell()) < size:
        try:
            _append(url, stream, before, came)
        except Exception as exc:
            final = isinstance(exc, HfHubHTTPError) and exc.response.status_code < 500
            tries = 0 if stream.tell() > before else tries + 1
            if final or (isinstance(exc, OSError) and exc.errno) or tries >= TRIES:
                raise
            time.sleep(PAUSE_S)


def _append(url: str, stream: BinaryIO, start: int, came: Callable[[int], None]) -> None:
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # Retries of the library would start at the same byte again.
    with http_stream_backoff(
        "GET", url, headers=headers, follow_redirects=True, retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:
            stream.truncate(0)  # a server without ranges sends everything again
        for chunk in response.iter_bytes(CHUNK_BYTES):
            stream.write(chunk)
            stream.flush()
            came(stream.tell())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(HASH_BYTES):
            digest.update(part)
    return digest.hexdigest()
