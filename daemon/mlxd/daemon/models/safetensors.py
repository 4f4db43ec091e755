"""Reads headers of safetensors files. Nothing else parses them, and the weights are not read.

Format: 8 bytes with the header's length (little endian), the header in JSON, then the data
(huggingface/safetensors).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from mlxd.daemon.models.files import JSON_MAX_BYTES, Unreadable, check_entry, os_problem

Header = dict[str, dict[str, Any]]
"""Maps the name of each tensor to its `dtype`, `shape` and `data_offsets`."""

LENGTH_BYTES = 8
METADATA = "__metadata__"


class Damaged(Unreadable):
    """The file exists but is not a complete safetensors file."""


def read_header(path: Path) -> Header:
    """Return the header of a file whose data is complete, without its metadata.

    Raises:
        Damaged: it is truncated or not a safetensors file.
        Unreadable: it cannot be opened or is not a regular file.
    """
    check_entry(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            # Before reading, because a bad length must not cause an allocation.
            if len(start) < LENGTH_BYTES or length > min(JSON_MAX_BYTES, size - LENGTH_BYTES):
                raise Damaged(path, _kind(start))
            text = file.read(length)
    except OSError as exc:
        raise Unreadable(path, os_problem(exc)) from exc
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise Damaged(path, _kind(start)) from None
    if not isinstance(header, dict):
        raise Damaged(path, _kind(start))
    header.pop(METADATA, None)
    if odd := [name for name, entry in header.items() if not _is_entry(entry)]:
        raise Damaged(path, f"has an invalid entry for the tensor {odd[0][:80]!r}")
    end = LENGTH_BYTES + length + max((span(entry)[1] for entry in header.values()), default=0)
    if end > size:
        raise Damaged(path, f"is truncated: {size} of {end} bytes")
    return header


def span(entry: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end in the data."""
    begin, end = entry["data_offsets"]
    return begin, end


def data_bytes(header: Header) -> int:
    """Return the size of all tensors of a file, in bytes."""
    return sum(end - begin for begin, end in map(span, header.values()))


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    offsets, shape = entry.get("data_offsets"), entry.get("shape")
    if not (_are_sizes(offsets) and _are_sizes(shape) and isinstance(entry.get("dtype"), str)):
        return False
    return len(offsets) == 2 and offsets[0] <= offsets[1]


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _kind(start: bytes) -> str:
    if start.startswith(b"version "):
        return "is a Git LFS pointer, not the weights"
    if start.lstrip()[:1] == b"<":
        return "is a web page, not weights"
    return "is not a safetensors file"
