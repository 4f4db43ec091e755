"""Sets how much freed memory glibc keeps for the next arrays."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEPT_BYTES, KEPT_ARRAY_BYTES = 1 << 30, 1 << 25
"""Limits on the freed memory that glibc keeps, and on the largest array that it can reuse."""


def keep_freed() -> None:
    """Make glibc reuse freed memory instead of returning it, if glibc allocates MLX's arrays.

    The kernel fills new memory with zeros page by page, which takes longer than most computations
    on it. Prompts of a model with 25 million parameters took 1.7 times as long.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_ARRAY_BYTES)


def give_back() -> None:
    """Return the memory that `keep_freed` has kept."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
