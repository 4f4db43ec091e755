"""CUDA: a GPU for which MLX compiles kernels at run time."""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.backend.gpu import GpuBackend, cache_limit_bytes
from mlxd.daemon.engine.backend.kernels import NO_KERNELS, keep_kernels
from mlxd.daemon.stderr import report


class CudaBackend(GpuBackend):
    """`kernels_dir` is the folder for kernels that MLX compiles."""

    def __init__(self, kernels_dir: str | None) -> None:
        self._kernels_dir = kernels_dir
        self._compiles = True

    def start(self, budget_bytes: int) -> None:
        mx.set_cache_limit(cache_limit_bytes(budget_bytes))
        self._compiles = keep_kernels(self._kernels_dir, os.environ)
        if not self._compiles:
            report(NO_KERNELS)
            mx.disable_compile()

    def describe(self) -> dict[str, Any]:
        blas = "" if self._compiles else "nothing compiled"
        return {"device": "gpu", "backend": "cuda", "blas": blas}

    def housekeeping(self) -> None:
        # The cache folder may be cleared while the engine runs.
        keep_kernels(self._kernels_dir, os.environ)
