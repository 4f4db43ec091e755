"""Snapshots of KV caches on disk: a read returns exactly what was written, or nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxd.daemon.engine.kvcache.prefix_index import as_tokens
from mlxd.daemon.engine.kvcache.snapshot_files import (
    DamagedSnapshot,
    Leaf,
    Snapshot,
    packed,
    read_head,
    read_snapshot,
)
from mlxd.daemon.engine.kvcache.snapshots import RETRY_S, SnapshotStore
from support import needs

KEY = "0123abcd"
ROOMY = 10**9


def snapshot(first: int, length: int = 100, *, key: str = KEY, trimmable: bool = True) -> Snapshot:
    values = np.arange(length * 8, dtype=np.float32).reshape(1, 2, length, 4) + first
    leaves = (Leaf("0.0", values, "float32"), Leaf("0.1", length), Leaf("0.2", None))
    tokens = as_tokens([first, *range(1, length)])
    return Snapshot(key, tokens, ("KVCache",), leaves, trimmable)


def store_with(folder: Path, *snapshots: Snapshot, max_bytes: int = ROOMY) -> SnapshotStore:
    store = SnapshotStore(folder, max_bytes, written_by="test")
    for one in snapshots:
        store.put(one)
        assert store.flush(30)
    return store


def fetch(store: SnapshotStore, wanted: Snapshot) -> Snapshot | None:
    size = len(wanted.tokens)
    match = store.longest(wanted.key, wanted.tokens, most=size)
    return None if match is None or match.tokens < size else store.read(match)


def reopen_store(folder: Path, max_bytes: int = ROOMY, written_by: str = "test") -> SnapshotStore:
    """Return a store as a later process opens it, once it has indexed the files."""
    store = SnapshotStore(folder, max_bytes, written_by=written_by)
    assert store.flush(30)
    return store


def same(one: Snapshot | None, other: Snapshot) -> bool:
    return one is not None and all(
        np.array_equal(mine.value, theirs.value)
        if isinstance(theirs.value, np.ndarray)
        else mine.value == theirs.value
        for mine, theirs in zip(one.leaves, other.leaves, strict=True)
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_written_snapshot_is_read_by_the_next_process(tmp_path: Path) -> None:
    one, two = snapshot(1), snapshot(2, trimmable=False)
    store_with(tmp_path, one, two)
    later = reopen_store(tmp_path)
    assert same(fetch(later, one), one)
    assert same(fetch(later, two), two)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_snapshot_files_are_written_by_a_separate_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlxd.daemon.engine.kvcache.snapshots as module

    writers = []

    def remember(*args: Any) -> Any:
        writers.append(threading.current_thread())
        return packed(*args)

    monkeypatch.setattr(module, "packed", remember)
    store_with(tmp_path, snapshot(1))
    assert len(writers) == 1
    assert writers[0] is not threading.current_thread()


def test_a_flipped_bit_or_truncation_is_always_detected(tmp_path: Path) -> None:
    path = tmp_path / "one.kv"
    head, blobs = packed(snapshot(1, 16), "test")
    whole = head + b"".join(blobs)
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedSnapshot):
            read_snapshot(path, "test")
    for size in (0, 5, 15, 16, len(head) - 1, len(head) + 3, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedSnapshot):
            read_head(path, "test")
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedSnapshot):
        read_head(path, "test")
    path.write_bytes(whole)
    assert same(read_snapshot(path, "test"), snapshot(1, 16))


@pytest.mark.parametrize("before_the_start", [True, False])
def test_a_damaged_file_is_deleted_and_not_used(tmp_path: Path, before_the_start: bool) -> None:
    good, bad = snapshot(1), snapshot(2)
    store = store_with(tmp_path, good, bad)
    path = next(path for path in files(tmp_path) if bad.tokens.tobytes() in path.read_bytes())
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) - 9 if not before_the_start else 40] ^= 8
    path.write_bytes(damaged)
    if before_the_start:
        store = reopen_store(tmp_path)
    assert fetch(store, bad) is None
    assert store.stats()["disk_dropped"] == 1
    assert not path.exists()
    assert fetch(store, bad) is None
    assert same(fetch(store, good), good)


def test_snapshots_of_another_version_are_deleted(tmp_path: Path) -> None:
    store_with(tmp_path, snapshot(1))
    later = reopen_store(tmp_path, written_by="another")
    assert fetch(later, snapshot(1)) is None
    assert files(tmp_path) == []


def test_snapshot_files_are_limited_in_bytes_and_the_oldest_are_deleted(tmp_path: Path) -> None:
    size = len(b"".join(packed(snapshot(1), "test")[1])) + 1000
    shots = [snapshot(first) for first in range(1, 8)]
    store = store_with(tmp_path, *shots, max_bytes=3 * size)
    on_disk = sum(path.stat().st_size for path in files(tmp_path))
    assert on_disk == store.stats()["disk_bytes"] <= 3 * size
    assert fetch(store, shots[0]) is None
    assert same(fetch(store, shots[-1]), shots[-1])
    smaller = reopen_store(tmp_path, max_bytes=size)
    assert smaller.stats()["disk_entries"] == 1
    assert len(files(tmp_path)) == 1


def test_a_longer_snapshot_replaces_the_trimmable_ones_it_contains(tmp_path: Path) -> None:
    store = store_with(tmp_path, snapshot(1, 100), snapshot(1, 120), snapshot(1, 300))
    assert store.stats()["disk_written"] == 2, "20 tokens more are not worth a file"
    assert store.stats()["disk_entries"] == 1
    exact = store_with(tmp_path / "x", snapshot(1, 100, trimmable=False), snapshot(1, 300))
    assert exact.stats()["disk_entries"] == 2


def test_temporary_files_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    store_with(tmp_path, snapshot(1))
    stray = files(tmp_path)[0].with_suffix(".tmp")
    stray.write_bytes(b"half")
    reopen_store(tmp_path)
    assert not stray.exists()


def test_an_unwritable_disk_turns_the_disk_cache_off_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    store = SnapshotStore(place, ROOMY)
    store.put(snapshot(1))
    assert store.flush(30)
    assert "the prompt cache on disk is off" in store.note
    assert fetch(store, snapshot(1)) is None
    assert "is off" in capsys.readouterr().err


def test_the_disk_cache_is_retried_after_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    now_s = [100.0]
    store = SnapshotStore(place, ROOMY, clock=lambda: now_s[0])
    assert store.flush(30)
    place.unlink()
    store.put(snapshot(1))
    assert store.flush(30)
    assert fetch(store, snapshot(1)) is None, "it is not retried at once"
    now_s[0] += RETRY_S
    store.put(snapshot(1))
    assert store.flush(30)
    assert same(fetch(store, snapshot(1)), snapshot(1))
    assert store.note == ""
    assert capsys.readouterr().err.count("is off") == 1


@needs.linux_only  # /dev/full
def test_a_disk_that_is_too_full_for_the_report_does_not_end_the_writing_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    now_s = [100.0]
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        store = SnapshotStore(place, ROOMY, clock=lambda: now_s[0])
        store.put(snapshot(1))
        assert store.flush(30)
        assert "is off" in store.note
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    place.unlink()
    now_s[0] += RETRY_S
    store.put(snapshot(1))
    assert store.flush(30)
    assert same(fetch(store, snapshot(1)), snapshot(1))
