"""KV snapshots on disk: one file each, checked before use, bounded in bytes. No MLX here.

File: magic, length of the header, header (JSON), tokens (uint32), arrays one after the other. The
header carries CRC-32 sums of everything behind it. A file that does not check is deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxd.daemon.engine.kvcache.prefix_index import Entry, Match, PrefixIndex, Tokens
from mlxd.daemon.stderr import error_summary

MAGIC = b"MLXDKV02"
SUFFIX = ".kv"
HEADER_MAX_BYTES = 2**20
WRITE_DELAY_S = 0.5
"""Turns follow each other quickly; what is replaced within this time is never written."""
WRITE_GAIN_TOKENS = 64
"""What a snapshot must add to the files of its model to be worth writing."""
DROP_WAIT_S = 5.0
"""How long deleting a model's files waits for one that is being written."""
SCAN_WAIT_S = 0.25
"""How long a prompt waits for the files to be known, right after the start."""
RETRY_S = 60.0
"""How long nothing is written after the disk refused a file: it may be full for a while only."""
PENDING_MAX_BYTES = 512 * 2**20
"""Host copies that wait for the disk; beyond it the oldest are given up."""


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


class SnapshotStore:
    """Reads on the caller's thread, writes on one of its own."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        written_by: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._retry_s = 0.0
        self._folder = folder
        self._written_by = written_by
        self._files: dict[int, Path] = {}
        self._index = PrefixIndex(max_bytes)
        self._pending: dict[Path, Snapshot] = {}
        self._wake = threading.Condition()
        self._writing = True  # until the folder is read, so that `flush` waits for that, too
        self._scanned = threading.Event()
        self._closing = False
        self.note = ""
        self.dropped = 0
        self.written = 0
        try:
            self._make_folder()
        except OSError as exc:
            self._pause(exc)
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)
        self._thread.start()

    # ---- the caller's side

    def longest(self, key: str, tokens: Tokens, *, most: int) -> Match | None:
        """Return the file that covers most of a prompt."""
        self._scanned.wait(SCAN_WAIT_S)
        with self._wake:
            return self._index.longest(key, tokens, most=most)

    def read(self, match: Match) -> Snapshot | None:
        """Return the snapshot, or None if its file is missing or damaged (then it is deleted)."""
        with self._wake:
            path = self._files.get(match.entry.id)
        if path is None:
            return None
        try:
            snapshot = read_snapshot(path, self._written_by)
            if snapshot.key != match.entry.key or not _equal(snapshot.tokens, match.entry.tokens):
                raise DamagedSnapshot("another prompt's")
            with contextlib.suppress(OSError):
                os.utime(path)
            with self._wake, contextlib.suppress(KeyError):
                self._index.touch(match.entry.id)
            return snapshot
        except (DamagedSnapshot, OSError):
            self.discard(match)
            return None

    def discard(self, match: Match) -> None:
        """Delete a file that turned out to be of no use."""
        self.dropped += 1
        self._forget(match.entry)

    def put(self, snapshot: Snapshot) -> None:
        """Write the snapshot soon, unless a file, or one that follows, does nearly as well."""
        size = len(snapshot.tokens)
        with self._wake:
            if self._clock() < self._retry_s or snapshot.nbytes > self._index.max_bytes:
                return
            known = self._index.longest(snapshot.key, snapshot.tokens, most=size)
            if known is not None and size - known.tokens < WRITE_GAIN_TOKENS:
                return
            for path, other in list(self._pending.items()):
                if other.key == snapshot.key and other.trimmable and _begins(snapshot, other):
                    del self._pending[path]
            self._pending[self._path_for(snapshot)] = snapshot
            waiting = sum(one.nbytes for one in self._pending.values())
            while waiting > PENDING_MAX_BYTES:
                waiting -= self._pending.pop(next(iter(self._pending))).nbytes
            self._wake.notify_all()

    def drop_key(self, key: str) -> None:
        """Delete all snapshots of a model."""
        with self._wake:
            for entry in self._index.of_key(key):
                self._index.remove(entry.id)
                self._files.pop(entry.id, None)
            self._pending = {p: s for p, s in self._pending.items() if s.key != key}
            self._wake.wait_for(lambda: not self._writing, DROP_WAIT_S)
        shutil.rmtree(self._folder / key, ignore_errors=True)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written; returns whether it is."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
            done = self._wake.wait_for(lambda: not self._pending and not self._writing, timeout_s)
            self._closing = False
            return done

    def stats(self) -> dict[str, int]:
        with self._wake:
            return {
                "disk_entries": len(self._index),
                "disk_bytes": self._index.nbytes,
                "disk_written": self.written,
                "disk_dropped": self.dropped,
            }

    def _make_folder(self) -> None:
        # Both: the mode is for the last folder only.
        for place in (self._folder.parent, self._folder):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)

    # ---- the writer's side

    def _work(self) -> None:
        try:
            self._scan()
        except Exception as exc:  # what cannot be read must not end the thread that writes
            print("The prompt cache on disk was not read:", error_summary(exc), file=sys.stderr)
        finally:
            self._scanned.set()
        while True:
            with self._wake:
                self._writing = False
                self._wake.notify_all()
                idle = not self._pending
                self._wake.wait_for(lambda: bool(self._pending))
                if idle and not self._closing:
                    # Only a flush ends this pause early.
                    self._wake.wait_for(lambda: self._closing, WRITE_DELAY_S)
                if not self._pending:
                    continue
                path = next(iter(self._pending))
                snapshot = self._pending.pop(path)
                self._writing = True
            self._write(path, snapshot)

    def _write(self, path: Path, snapshot: Snapshot) -> None:
        key, tokens, trimmable = snapshot.key, snapshot.tokens, snapshot.trimmable
        try:
            head, blobs = packed(snapshot, self._written_by)
            size = len(head) + sum(len(blob) for blob in blobs)
            self._make_room(size)
            _write_atomically(path, [head, *blobs])
        except OSError as exc:
            self._pause(exc)
            return
        except Exception:  # a state that cannot be written down must not end the thread
            self.dropped += 1
            return
        self.written += 1
        self.note = ""
        with self._wake:
            evicted = self._index.contained(key, tokens) if trimmable else []
            self._add(path, key, tokens, size, trimmable)
            evicted += self._index.over_budget()
        for entry in evicted:
            self._forget(entry)

    def _make_room(self, size: int) -> None:
        """Delete what was used longest ago before a file of `size` bytes is written."""
        with self._wake:
            evicted = self._index.over_budget(max(0, self._index.max_bytes - size))
        for entry in evicted:
            self._forget(entry)

    def _scan(self) -> None:
        """Read the headers of what earlier processes left, oldest use first."""
        found = []
        for path in self._folder.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
        for stray in self._folder.glob("*/*.tmp"):
            with contextlib.suppress(OSError):
                stray.unlink()
        for _, path in sorted(found):
            try:
                header, tokens = read_head(path, self._written_by)
                with self._wake:
                    self._add(path, header["key"], tokens, header["size"], header["trimmable"])
            except (DamagedSnapshot, OSError):
                self.dropped += 1
                with contextlib.suppress(OSError):
                    path.unlink()
        with self._wake:
            evicted = self._index.over_budget()
        for entry in evicted:
            self._forget(entry)

    def _add(self, path: Path, key: str, tokens: Tokens, size: int, trimmable: bool) -> None:
        entry = self._index.add(key, tokens, size, trimmable=trimmable)
        self._files[entry.id] = path

    def _forget(self, entry: Entry) -> None:
        with self._wake:
            self._index.remove(entry.id)
            path = self._files.pop(entry.id, None)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()

    def _path_for(self, snapshot: Snapshot) -> Path:
        name = f"{len(snapshot.tokens)}-{zlib.crc32(snapshot.tokens.tobytes()):08x}{SUFFIX}"
        return self._folder / snapshot.key / name

    def _pause(self, exc: OSError) -> None:
        """Write nothing for a while; said once, until something is written again."""
        with self._wake:
            self._pending.clear()
            self._retry_s = self._clock() + RETRY_S
        if not self.note:
            note = f"the prompt cache on disk is off, and tried again every {RETRY_S:.0f} s: {exc}"
            print(note, file=sys.stderr, flush=True)
            self.note = note


def _equal(first: Tokens, second: Tokens) -> bool:
    return len(first) == len(second) and bool((first == second).all())


def _begins(longer: Snapshot, shorter: Snapshot) -> bool:
    size = len(shorter.tokens)
    return len(longer.tokens) >= size and bool((longer.tokens[:size] == shorter.tokens).all())


# ---- files


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


def _write_atomically(path: Path, parts: list[bytes]) -> None:
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
