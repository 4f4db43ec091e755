"""Finds a fast BLAS library for MLX's CPU backend. MLX's Linux wheel has the slow reference one.

BLIS is preferred to OpenBLAS because it multiplies a few rows, as in decoding, without packing the
whole weight matrix first. Both get one thread, because their threads wait for each other in busy
loops. On a machine whose cores are in use, that takes minutes. `docs/decisions/` has the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

BLIS = (
    "/usr/lib/x86_64-linux-gnu/blis-pthread/libblis.so.4",  # Debian, Ubuntu
    "/usr/lib/x86_64-linux-gnu/blis-openmp/libblis.so.4",
)
OPENBLAS = (
    "/usr/lib/{triplet}/openblas-pthread/libopenblas.so.0",  # Debian, Ubuntu
    "/usr/lib/{triplet}/openblas-openmp/libopenblas.so.0",
    "/usr/lib/{triplet}/libopenblas.so.0",
    "/usr/lib64/libopenblasp.so.0",  # Fedora: the threaded one
    "/usr/lib64/libopenblas.so.0",
    "/usr/lib/libopenblas.so.0",  # Arch
)
_TRIPLETS = ("x86_64-linux-gnu", "aarch64-linux-gnu")
_THREADS = {
    "blis": "BLIS_NUM_THREADS",
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
}
"""The variable that sets the number of threads, by kind of library."""


def find_blas(
    platform: str = sys.platform, candidates: Iterable[str] = (*BLIS, *OPENBLAS)
) -> Path | None:
    """Return the library to preload into the engine (LD_PRELOAD), or None."""
    if not platform.startswith("linux"):
        return None
    paths = (Path(c.format(triplet=triplet)) for c in candidates for triplet in _TRIPLETS)
    return next((path for path in paths if path.is_file()), None)


def blas_kind(path: str) -> str:
    """Return "blis", "openblas" or "mkl" for the path of a library; "" for any other."""
    return next((kind for kind in _THREADS if kind in path), "")


def with_blas(environ: Mapping[str, str], library: Path | None) -> dict[str, str]:
    """Return an environment that preloads the library and limits it to one thread.

    A BLAS or a number of threads that `environ` already sets is kept.
    """
    env = dict(environ)
    chosen = preloaded_blas(environ)
    if library is not None and not chosen:
        chosen = str(library)
        env["LD_PRELOAD"] = f"{chosen} {env.get('LD_PRELOAD', '')}".rstrip()
    if kind := blas_kind(chosen):
        env.setdefault(_THREADS[kind], "1")
    return env


def preloaded_blas(environ: Mapping[str, str]) -> str:
    """Return the first BLAS in LD_PRELOAD, or "" if there is none.

    Paths that do not exist do not count, because the loader ignores them. A name without a slash
    counts, because the loader searches for it.
    """
    named = environ.get("LD_PRELOAD", "").replace(":", " ").split()
    there = (name for name in named if "/" not in name or Path(name).is_file())
    return next((name for name in there if blas_kind(name)), "")
