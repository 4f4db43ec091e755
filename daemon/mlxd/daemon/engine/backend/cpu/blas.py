"""How many threads the CPU's matrix products use where BLIS_NUM_THREADS allows several.

The default is one: `mlxd.daemon.blas` says why. BLIS starts its threads anew for every product,
which costs more than a small product takes, so that several are used for large ones only. Metal,
CUDA and other libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from mlx.utils import tree_flatten

from mlxd.daemon.blas import blas_kind

THREADS_FROM = 1 << 25
"""Multiplications (rows * weights of a layer's largest matrix) from which threads pay. On two
cores 8 rows by 512 * 1536 (6 million) take as long either way and 8 by 2048 * 8192 (134 million)
half as long; a prompt of 160 tokens by 256 * 640 (26 million) took 34 ms with one thread and 47
with two."""


def widest(model: Any) -> int:
    """Return the weights of the model's largest matrix."""
    sizes = (array.size for _, array in tree_flatten(model.parameters()) if array.ndim > 1)
    return max(sizes, default=0)


class Threads:
    """Sets the number of threads before a product. `put` takes it, and is called on changes."""

    def __init__(self, put: Callable[[int], object] | None, most: int) -> None:
        self._put = put
        self._most = most
        self._now = most

    def fit(self, products: int) -> None:
        """Choose for layers whose largest product takes that many multiplications."""
        wanted = self._most if products >= THREADS_FROM else 1
        if self._put is not None and wanted != self._now:
            self._put(wanted)
            self._now = wanted


def blas_threads() -> Threads:
    """Return the setter of the BLAS that is loaded, or one that does nothing."""
    most = int(os.environ.get("BLIS_NUM_THREADS") or 1)
    if blas_kind(os.environ.get("LD_PRELOAD", "")) != "blis":
        return Threads(None, most)
    put: Callable[[int], object] | None = getattr(
        ctypes.CDLL(None), "bli_thread_set_num_threads", None
    )
    return Threads(put, most)
