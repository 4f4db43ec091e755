"""How much freed memory glibc keeps for the next arrays."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES, KEPT_ARRAY_BYTES = 1 << 30, 1 << 25
"""What glibc may keep of freed memory, and the largest array that it can keep."""


def keep_freed() -> None:
    """Have freed memory used again instead of given back, where glibc manages MLX's arrays.

    The kernel fills new memory with zeros page by page, which takes longer than most of what is
    computed in it: prompts of a model with 25 million parameters took 1.7 times as long.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_ARRAY_BYTES)


def give_back() -> None:
    """Give back what `keep_freed` has kept."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
