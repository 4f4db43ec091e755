"""Sets the number of BLIS threads per matrix product if BLIS_NUM_THREADS allows several.

The default is one thread, which `mlxd.daemon.blas` explains. BLIS starts its threads for every
product. That takes longer than a small product, so only large products use several. Other BLAS
libraries, Metal and CUDA are not affected.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from mlxd.daemon.blas import blas_kind

THREADS_FROM = 1 << 25
"""Number of multiplications (rows * weights of a layer's largest matrix) above which several
threads are faster. On two cores, 8 rows by 512 * 1536 (6 million) take equally long with one and
two threads, and 8 by 2048 * 8192 (134 million) half as long with two. A prompt of 160 tokens by 256
* 640 (26 million) took 34 ms with one thread and 47 ms with two."""


class Threads:
    """Sets the number of threads by calling `put` whenever the number changes."""

    def __init__(self, put: Callable[[int], object] | None, most: int) -> None:
        self._put = put
        self._most = most
        self._now = most

    def fit(self, products: int) -> None:
        """Choose the number of threads for layers whose largest product has that many
        multiplications."""
        wanted = self._most if products >= THREADS_FROM else 1
        if self._put is not None and wanted != self._now:
            self._put(wanted)
            self._now = wanted


def blas_threads() -> Threads:
    """Return the setter of BLIS if it is loaded, otherwise one that does nothing."""
    most = int(os.environ.get("BLIS_NUM_THREADS") or 1)
    if blas_kind(os.environ.get("LD_PRELOAD", "")) != "blis":
        return Threads(None, most)
    put: Callable[[int], object] | None = getattr(
        ctypes.CDLL(None), "bli_thread_set_num_threads", None
    )
    return Threads(put, most)
