"""Finds OpenBLAS: some fifty times faster than the reference BLAS of MLX's wheel for Linux."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

CANDIDATES = (
    "/usr/lib/{triplet}/openblas-pthread/libopenblas.so.0",  # Debian, Ubuntu
    "/usr/lib/{triplet}/openblas-openmp/libopenblas.so.0",
    "/usr/lib/{triplet}/libopenblas.so.0",
    "/usr/lib64/libopenblasp.so.0",  # Fedora: the threaded one
    "/usr/lib64/libopenblas.so.0",
    "/usr/lib/libopenblas.so.0",  # Arch
)
_TRIPLETS = ("x86_64-linux-gnu", "aarch64-linux-gnu")


def find_openblas(
    platform: str = sys.platform, candidates: Iterable[str] = CANDIDATES
) -> Path | None:
    """Return the library to preload into the engine (LD_PRELOAD); None: none, or no need."""
    if not platform.startswith("linux"):
        return None
    paths = (Path(c.format(triplet=triplet)) for c in candidates for triplet in _TRIPLETS)
    return next((path for path in paths if path.is_file()), None)
