"""The file format of KV snapshots. No MLX here.

A file has a magic number, the length and the CRC-32 of the header, the header (JSON), the tokens
(uint32) and the arrays one after another. The header has the CRC-32 sums of what follows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxd.daemon.engine.kvcache.prefix_index import Tokens

MAGIC = b"MLXDKV02"
HEADER_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a cache's state. `dtype` is MLX's name; bfloat16 travels as its bits."""

    path: str
    value: Any
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A KV cache taken apart: the classes of its layers and the leaves of their states."""

    key: str
    tokens: Tokens
    classes: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    trimmable: bool

    @property
    def nbytes(self) -> int:
        arrays = (leaf.value.nbytes for leaf in self.leaves if isinstance(leaf.value, np.ndarray))
        return int(self.tokens.nbytes + sum(arrays))


class DamagedSnapshot(Exception):
    """The file is not what was written."""


def packed(snapshot: Snapshot, written_by: str) -> tuple[bytes, list[bytes]]:
    """Return the head of the file, and what follows it."""
    blobs: list[bytes] = []
    described: list[dict[str, Any]] = []
    for leaf in snapshot.leaves:
        if isinstance(leaf.value, np.ndarray):
            blob = np.ascontiguousarray(leaf.value).tobytes()
            described.append(
                {
                    "path": leaf.path,
                    "dtype": leaf.dtype,
                    "numpy": str(leaf.value.dtype),
                    "shape": list(leaf.value.shape),
                    "nbytes": len(blob),
                    "crc": zlib.crc32(blob),
                }
            )
            blobs.append(blob)
        else:
            described.append({"path": leaf.path, "value": leaf.value})
    tokens = snapshot.tokens.tobytes()
    header = {
        "key": snapshot.key,
        "made_by": written_by,
        "count": len(snapshot.tokens),
        "tokens_crc": zlib.crc32(tokens),
        "classes": snapshot.classes,
        "trimmable": snapshot.trimmable,
        "leaves": described,
    }
    text = json.dumps(header).encode()
    head = MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text
    return head, [tokens, *blobs]


def write_atomically(path: Path, parts: list[bytes]) -> None:
    """Write to a temporary file and rename: a file is whole, or not there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _read_header(read: Callable[[int], bytes], size: int, written_by: str) -> dict[str, Any]:
    start = read(16)
    if start[:8] != MAGIC:
        raise DamagedSnapshot("not a snapshot")
    length = int.from_bytes(start[8:12], "little")
    if length > HEADER_MAX_BYTES:
        raise DamagedSnapshot("header too long")
    text = read(length)
    if zlib.crc32(text) != int.from_bytes(start[12:16], "little"):
        raise DamagedSnapshot("header damaged")
    header: dict[str, Any] = json.loads(text)
    if header.get("made_by") != written_by:
        # The state of a cache class may change from one version of mlx-lm to the next.
        raise DamagedSnapshot("made by another version")
    arrays = sum(leaf.get("nbytes", 0) for leaf in header["leaves"])
    if 16 + length + 4 * header["count"] + arrays != size:
        raise DamagedSnapshot("length differs")
    header["size"] = size
    return header


def _read_tokens(read: Callable[[int], bytes], header: dict[str, Any]) -> Tokens:
    raw = read(4 * header["count"])
    if zlib.crc32(raw) != header["tokens_crc"]:
        raise DamagedSnapshot("tokens damaged")
    return np.frombuffer(raw, dtype=np.uint32)


def read_head(path: Path, written_by: str) -> tuple[dict[str, Any], Tokens]:
    """Return header and tokens only. Raises DamagedSnapshot, OSError."""
    with path.open("rb") as file:
        header = _read_header(file.read, path.stat().st_size, written_by)
        return header, _read_tokens(file.read, header)


def read_snapshot(path: Path, written_by: str) -> Snapshot:
    """Return the whole snapshot, every sum checked. Raises DamagedSnapshot, OSError."""
    with path.open("rb") as file:
        header = _read_header(file.read, path.stat().st_size, written_by)
        tokens = _read_tokens(file.read, header)
        leaves = tuple(_read_leaf(file.read, raw) for raw in header["leaves"])
    return Snapshot(header["key"], tokens, tuple(header["classes"]), leaves, header["trimmable"])


def _read_leaf(read: Callable[[int], bytes], raw: dict[str, Any]) -> Leaf:
    if "nbytes" not in raw:
        return Leaf(raw["path"], raw["value"])
    blob = read(raw["nbytes"])
    if zlib.crc32(blob) != raw["crc"]:
        raise DamagedSnapshot("array damaged")
    array = np.frombuffer(blob, dtype=raw["numpy"]).reshape(raw["shape"])
    return Leaf(raw["path"], array, raw["dtype"])
