"""KV snapshots on disk: one file each, verified before use, bounded in bytes. No MLX here."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from mlxd.daemon.engine.kvcache.prefix_index import Entry, Match, PrefixIndex, Tokens
from mlxd.daemon.engine.kvcache.snapshot_files import (
    DamagedSnapshot,
    Snapshot,
    packed,
    read_head,
    read_snapshot,
    write_atomically,
)
from mlxd.daemon.stderr import error_summary, report

SUFFIX = ".kv"
WRITE_DELAY_S = 0.5
"""Turns follow each other quickly. A snapshot replaced within this time is never written."""
WRITE_GAIN_TOKENS = 64
"""Tokens that a snapshot must add to the files of its model to be worth writing."""
SCAN_WAIT_S = 0.25
"""How long a prompt waits, right after the start, until the folder has been read."""
RETRY_S = 60.0
"""How long nothing is written after the disk refused a file. It may be full only for a while."""
PENDING_MAX_BYTES = 512 * 2**20
"""Bytes of snapshots that wait for the disk. Beyond it the oldest are dropped."""


class SnapshotStore:
    """Reads on the caller's thread, and writes on a thread of its own."""

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
        self._writing = True  # until the folder is indexed, so that `flush` waits for that too
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

    # ---- called by the compute thread

    def longest(self, key: str, tokens: Tokens, *, most: int) -> Match | None:
        """Return the file with the longest prefix of a prompt, or None."""
        self._scanned.wait(SCAN_WAIT_S)
        with self._wake:
            return self._index.longest(key, tokens, most=most)

    def read(self, match: Match) -> Snapshot | None:
        """Return the snapshot. If its file is missing or damaged, delete it and return None."""
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
        """Delete a file that cannot be used."""
        self.dropped += 1
        self._forget(match.entry)

    def put(self, snapshot: Snapshot) -> None:
        """Write the snapshot soon, unless a file covers nearly as many of its tokens."""
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

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written. Return whether it is."""
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
        # One by one: `mode` applies to the last folder only.
        for place in (self._folder.parent, self._folder):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)

    # ---- on the writing thread

    def _work(self) -> None:
        try:
            self._scan()
        except Exception as exc:  # the thread must go on to write
            report("The prompt cache on disk was not read:", error_summary(exc))
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
            write_atomically(path, [head, *blobs])
        except OSError as exc:
            self._pause(exc)
            return
        except Exception:  # one state that cannot be serialised must not end the thread
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
        """Delete the least recently used files before one of `size` bytes is written."""
        with self._wake:
            evicted = self._index.over_budget(max(0, self._index.max_bytes - size))
        for entry in evicted:
            self._forget(entry)

    def _scan(self) -> None:
        """Read the headers of the files of earlier processes, least recently used first."""
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
        """Write nothing for a while. Report it once, until a file is written again."""
        with self._wake:
            self._pending.clear()
            self._retry_s = self._clock() + RETRY_S
        if not self.note:
            note = f"the prompt cache on disk is off, and tried again every {RETRY_S:.0f} s: {exc}"
            report(note)
            self.note = note


def _equal(first: Tokens, second: Tokens) -> bool:
    return len(first) == len(second) and bool((first == second).all())


def _begins(longer: Snapshot, shorter: Snapshot) -> bool:
    size = len(shorter.tokens)
    return len(longer.tokens) >= size and bool((longer.tokens[:size] == shorter.tokens).all())
