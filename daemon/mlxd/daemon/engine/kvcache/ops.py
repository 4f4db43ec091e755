"""Operations of several sequences on mlx-lm's caches: merge, split, remove rows.

They work with any class that has `merge`, `extend`, `filter` and `extract`. Nearly all models use
the plain `KVCache` and its batched form. For these, some operations take fewer steps and do not
wait for a step that is being computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache

from mlxd.daemon.engine.mlx_lm_private import batch_tokens, drop_first_positions

Cache = list[Any]
"""One cache object of mlx-lm per layer."""


def is_plain(cache: Cache) -> bool:
    """Return whether a sequence's cache consists of nothing but keys and values of all its
    tokens."""
    return all(type(layer) is KVCache for layer in cache)


def merge(caches: Sequence[Cache]) -> Cache:
    """Return one batched cache from several single ones, which are not changed."""
    return [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]


def rows_of(cache: Cache, rows: Sequence[int]) -> list[Cache]:
    """Return copies of some rows of a batched cache, each as a single cache of its exact size."""
    if not _is_plain_batch(cache):
        return [[layer.extract(row) for layer in cache] for row in rows]
    lefts = _lefts(cache)
    return [[part(layer, row, lefts[row], batch_tokens(layer)) for layer in cache] for row in rows]


def part(layer: BatchKVCache, row: int, first: int, last: int) -> KVCache:
    """Return the positions [first, last) of one row as a separate cache."""
    own = KVCache()
    own.keys = mx.contiguous(layer.keys[row : row + 1, :, first:last])
    own.values = mx.contiguous(layer.values[row : row + 1, :, first:last])
    own.offset = last - first
    return own


def keep_rows(cache: Cache, rows: Sequence[int]) -> None:
    """Remove all other rows from a batched cache, and padding that no row needs any more."""
    picked = mx.array(list(rows))
    if not _is_plain_batch(cache):
        for layer in cache:
            layer.filter(picked)
        return
    lefts = _lefts(cache)
    spare = min(lefts[row] for row in rows)
    for layer in cache:
        layer.keys = layer.keys[picked][..., spare:, :]
        layer.values = layer.values[picked][..., spare:, :]
        layer.offset = layer.offset[picked]
        layer.left_padding = mx.array([lefts[row] - spare for row in rows])
        drop_first_positions(layer, spare)


def share_offsets(cache: Cache) -> None:
    """Make all layers of a batch share one array of positions, so that `rope` can recognise it.

    Every layer has its own copy of the rows' positions. An update binds a new array and does not
    change the old one, so sharing is safe.
    """
    if _is_plain_batch(cache):
        for layer in cache[1:]:
            layer.offset = cache[0].offset


def _is_plain_batch(cache: Cache) -> bool:
    return all(type(layer) is BatchKVCache for layer in cache)


def _lefts(cache: Cache) -> list[int]:
    # It is equal in all layers and was computed in an earlier step, so nothing is waited for.
    return cast(list[int], cache[0].left_padding.tolist())
