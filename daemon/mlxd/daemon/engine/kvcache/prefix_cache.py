"""The prefix cache: KV caches of prompts, in memory and on disk.

Everything here runs on the compute thread, except writing files (`snapshots.py`), which uses copies
in host memory.
"""

from __future__ import annotations

import copy
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import (
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    can_trim_prompt_cache,
    trim_prompt_cache,
)

from mlxd.daemon.engine.backend.shortages import not_device_failure
from mlxd.daemon.engine.kvcache.prefix_index import Match, PrefixIndex, Tokens, as_tokens
from mlxd.daemon.engine.kvcache.snapshot_files import Leaf, Snapshot
from mlxd.daemon.engine.kvcache.snapshots import SnapshotStore
from mlxd.daemon.engine.mlx_lm_private import cache_class
from mlxd.daemon.stderr import error_summary, report

Cache = list[Any]

MEMORY_MIN_TOKENS = 8
"""Shorter prompts are not cached, because computing them is faster."""
DISK_MIN_TOKENS = 64
DISK_GAIN_TOKENS = 64
"""Minimum number of tokens by which a file must cover more than memory to be read."""


class PrefixCache:
    """The memory tier and the disk tier. `fetch` returns copies of caches, `store` adds them."""

    def __init__(self, memory_bytes: int, disk_dir: Path | None, disk_bytes: int) -> None:
        self._index = PrefixIndex(memory_bytes)
        self._caches: dict[int, Cache] = {}
        self._store: SnapshotStore | None = None
        if disk_dir and disk_bytes > 0:
            self._store = SnapshotStore(
                disk_dir, disk_bytes, written_by=f"mlx-lm {version('mlx-lm')}"
            )
        self._to_store: list[tuple[str, list[int], Cache]] = []
        self._restricted: dict[str, tuple[bool, bool]] = {}
        self.counters: Counter[str] = Counter()

    def restrict(self, model_key: str, *, memory: bool, disk: bool) -> None:
        """Set whether a model's prompts are cached at all, and whether they are written to disk."""
        self._restricted[model_key] = (memory, disk)

    def fetch(
        self, model_key: str, tokens: list[int], _model: Any = None, *, min_tokens: int = 1
    ) -> tuple[Cache | None, int]:
        """Return (cache, n): a new cache that covers the first n tokens, or (None, 0).

        n is at most `len(tokens) - 1`, because the model must be fed at least one token.
        """
        self.store_pending()
        prompt = as_tokens(tokens)
        most = len(tokens) - 1
        found = self._index.longest(model_key, prompt, most=most)
        found = self._better_on_disk(model_key, prompt, most, found) or found
        if found is None or found.tokens < min_tokens:
            self.counters["misses"] += 1
            return None, 0
        self._index.touch(found.entry.id)
        self.counters["hits"] += 1
        self.counters["tokens_reused"] += found.tokens
        length = len(found.entry.tokens)
        return copied(self._caches[found.entry.id], length, found.tokens), found.tokens

    def store(
        self,
        model_key: str,
        tokens: list[int],
        caches: Cache,
        *,
        durable: bool,
        own: bool = False,
    ) -> None:
        """Store a copy of `caches`, which cover exactly `tokens`. `own`: nothing else uses them.

        If `durable`, a cache that is long enough is also written to disk.
        """
        in_memory, on_disk = self._restricted.get(model_key, (True, True))
        if len(tokens) < MEMORY_MIN_TOKENS or not in_memory:
            return
        prefix = as_tokens(tokens)
        if known := self._index.covered(model_key, prefix):
            self._index.touch(known.id)
            return
        if nbytes_of(caches, len(tokens)) + prefix.nbytes > self._index.max_bytes:
            return  # before copying, which would take as much memory again
        trimmable = can_trim_now(caches)
        as_is = own and all(_is_exact(layer, len(tokens)) for layer in caches)
        kept = caches if as_is else copied(caches, len(tokens), len(tokens))
        mx.eval([layer.state for layer in kept])
        entry_id = self._remember(model_key, prefix, kept, trimmable)
        if durable and on_disk and entry_id is not None and len(tokens) >= DISK_MIN_TOKENS:
            self._write(model_key, prefix, kept, trimmable)

    def has_room_for(self, nbytes: int) -> bool:
        """Whether an entry of this size can be kept; also True if nothing is kept at all."""
        return not self._index.max_bytes or nbytes <= self._index.max_bytes

    def store_later(self, model_key: str, tokens: list[int], caches: Cache) -> None:
        """Store `caches`, which cover `tokens` and have no other owner, at the next
        `store_pending`.

        The result of the request is sent before. All other methods first store pending caches.
        """
        self._to_store.append((model_key, tokens, caches))

    def store_pending(self, most: int | None = None) -> bool:
        """Store at most `most` pending caches. Return whether there were any."""
        now = self._to_store[:most]
        del self._to_store[:most]
        for model_key, tokens, caches in now:
            try:
                self.store(model_key, tokens, caches, durable=True, own=True)
            except Exception as exc:  # no request fails; a later prompt is computed again
                not_device_failure(exc)
                summary = error_summary(exc)
                report("Storing a prompt's cache failed:", summary)
        return bool(now)

    def release(self, model_key: str) -> None:
        """Remove the prompts of an unloaded model from memory. Its files remain."""
        self.store_pending()
        for entry in self._index.of_key(model_key):
            self._drop(entry.id)

    @property
    def nbytes(self) -> int:
        """The memory used by cached prompts, in bytes."""
        return self._index.nbytes

    def trim(self, memory_bytes: int) -> None:
        """Evict prompts until they use at most `memory_bytes`."""
        for entry in self._index.over_budget(memory_bytes):
            self._drop(entry.id)

    def flush(self, timeout_s: float) -> bool:
        """Wait until files are written. Return whether all are."""
        self.store_pending()
        return self._store is None or self._store.flush(timeout_s)

    def stats(self) -> dict[str, int]:
        """Return counters and sizes of both tiers."""
        names = ("hits", "misses", "disk_hits", "tokens_reused")
        out = {name: self.counters[name] for name in names}
        out |= {"memory_entries": len(self._index), "memory_bytes": self._index.nbytes}
        return out | (self._store.stats() if self._store is not None else {})

    def _better_on_disk(
        self, key: str, prompt: Tokens, most: int, found: Match | None
    ) -> Match | None:
        """Load a file that covers more tokens than memory by at least `DISK_GAIN_TOKENS`."""
        if self._store is None or not self._restricted.get(key, (True, True))[1]:
            return None
        stored = self._store.longest(key, prompt, most=most)
        have = found.tokens if found is not None else 0
        if stored is None or stored.tokens < have + DISK_GAIN_TOKENS:
            return None
        snapshot = self._store.read(stored)
        if snapshot is None:
            return None
        try:
            caches = rebuilt(snapshot)
        except Exception:  # a newer class of mlx-lm may raise any error on an older state
            self._store.discard(stored)
            return None
        entry_id = self._remember(key, snapshot.tokens, caches, snapshot.trimmable)
        if entry_id is None:
            return None
        self.counters["disk_hits"] += 1
        return self._index.longest(key, prompt, most=most)

    def _remember(self, key: str, tokens: Tokens, caches: Cache, trimmable: bool) -> int | None:
        nbytes = sum(layer.nbytes for layer in caches) + tokens.nbytes
        if nbytes > self._index.max_bytes:
            return None
        if trimmable:
            for entry in self._index.contained(key, tokens):
                self._drop(entry.id)
        entry = self._index.add(key, tokens, nbytes, trimmable=trimmable)
        self._caches[entry.id] = caches
        for old in self._index.over_budget():
            self._drop(old.id)
        return entry.id

    def _drop(self, entry_id: int) -> None:
        self._index.remove(entry_id)
        self._caches.pop(entry_id, None)

    def _write(self, key: str, tokens: Tokens, caches: Cache, trimmable: bool) -> None:
        if self._store is not None:
            snapshot = taken_apart(key, tokens, caches, trimmable)
            check_device()
            self._store.put(snapshot)


def check_device() -> None:
    """Raise the error of the GPU, if a command buffer has failed.

    MLX reports that at the next check only, and until then the arrays hold garbage. This is such
    a check. Nothing that was computed since the last one may be written before it.
    """
    if mx.default_device() == mx.Device(mx.gpu):
        mx.synchronize()


def nbytes_of(caches: Cache, tokens: int) -> int:
    """Return the bytes of a copy of these caches that covers `tokens`, without unused room."""
    return sum(_nbytes_of(layer, tokens) for layer in caches)


def _nbytes_of(layer: Any, tokens: int) -> int:
    nbytes = int(layer.nbytes)
    if type(layer) is KVCache and layer.keys is not None:
        return nbytes * tokens // int(layer.keys.shape[2])
    return nbytes


def can_trim_now(caches: Cache) -> bool:
    """Return whether any prefix can be restored exactly by trimming these caches.

    A cache with a window allows this until it is full. A chunked cache claims to, but it has
    dropped everything before its chunk.
    """
    return can_trim_prompt_cache(caches) and not any(map(_in_chunks, caches))


def can_trim_always(caches: Cache) -> bool:
    """Return whether this holds at any length, so that no snapshots at cuts are needed."""
    return all(type(layer) in (KVCache, QuantizedKVCache) for layer in caches)


def _in_chunks(layer: Any) -> bool:
    if isinstance(layer, CacheList):
        return any(map(_in_chunks, layer.caches))
    return isinstance(layer, ChunkedKVCache)


def copied(caches: Cache, length: int, tokens: int) -> Cache:
    """Return a new cache with the first `tokens` of the `length` that `caches` cover."""
    if all(type(layer) is KVCache for layer in caches):
        return [_first_tokens(layer, tokens) for layer in caches]
    own = copy.deepcopy(caches)
    if tokens < length:
        trim_prompt_cache(own, length - tokens)
    return own


def _is_exact(layer: Any, tokens: int) -> bool:
    """Return whether the layer has no spare capacity, which would waste memory."""
    return type(layer) is KVCache and layer.keys is not None and layer.keys.shape[2] == tokens


def _first_tokens(layer: KVCache, tokens: int) -> KVCache:
    # Slices are separate arrays: appending to them never changes the original.
    own = KVCache()
    if layer.keys is not None:
        own.keys = mx.contiguous(layer.keys[..., :tokens, :])
        own.values = mx.contiguous(layer.values[..., :tokens, :])
    own.offset = tokens
    return own


def taken_apart(key: str, tokens: Tokens, caches: Cache, trimmable: bool) -> Snapshot:
    """Return evaluated caches as host arrays, which another thread may read."""
    leaves = [_leaf(path, value) for path, value in tree_flatten([c.state for c in caches])]
    classes = tuple(type(layer).__name__ for layer in caches)
    return Snapshot(key, tokens, classes, tuple(leaves), trimmable)


def _leaf(path: str, value: Any) -> Leaf:
    if not isinstance(value, mx.array):
        return Leaf(path, value)
    name = str(value.dtype).removeprefix("mlx.core.")
    if name == "bfloat16":
        # numpy has no bfloat16, so its bits are stored.
        value = value.view(mx.uint16)
    return Leaf(path, np.array(value, copy=True), name)


def rebuilt(snapshot: Snapshot) -> Cache:
    """Return the caches of a snapshot. Raises any error of a cache class that rejects its state."""
    pairs = []
    for leaf in snapshot.leaves:
        value = leaf.value
        if isinstance(value, np.ndarray):
            value = mx.array(value)
            if leaf.dtype == "bfloat16":
                value = value.view(mx.bfloat16)
        pairs.append((leaf.path, value))
    states = tree_unflatten(pairs)
    return [
        cache_class(name).from_state(state)
        for name, state in zip(snapshot.classes, states, strict=True)
    ]
