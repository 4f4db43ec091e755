"""The CPU backend: replacements for what MLX does slowly there, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx

from mlxd.daemon.blas import blas_kind, preloaded_blas
from mlxd.daemon.engine.backend.cpu import malloc, rope_norm
from mlxd.daemon.engine.backend.cpu.blas import blas_threads
from mlxd.daemon.engine.backend.kernels import NO_KERNELS, keep_kernels
from mlxd.daemon.engine.scheduling.pacing import CHUNK_STEP_TOKENS
from mlxd.daemon.stderr import report

LONG_STEP_S = 0.02
"""Longer steps start only after the tokens of the last one are sent."""


class CpuBackend:
    """`kernels_dir` is the folder for kernels that MLX compiles."""

    warm_up_tokens = 1
    chunk_step_tokens = CHUNK_STEP_TOKENS

    def __init__(self, kernels_dir: str | None) -> None:
        self._kernels_dir = kernels_dir
        self._threads = blas_threads()
        self._compiles = True
        self._builder: subprocess.Popen[bytes] | None = None

    def start(self, budget_bytes: int) -> None:
        malloc.keep_freed()
        self._compiles = keep_kernels(self._kernels_dir, os.environ)
        if self._compiles:
            self._builder = rope_norm.install()
        else:
            report(NO_KERNELS)
            mx.disable_compile()

    def describe(self) -> dict[str, Any]:
        blas = "accelerate"
        if sys.platform != "darwin":
            blas = blas_kind(preloaded_blas(os.environ)) or "reference (slow)"
        if not self._compiles:
            blas = f"{blas}, nothing compiled"
        return {"device": "cpu", "backend": "cpu", "blas": blas}

    def memory_info(self) -> dict[str, Any]:
        return {}

    def before_pass(self, tokens: int, largest_matrix: int) -> None:
        self._threads.fit(tokens * largest_matrix)

    def after_prefill(self) -> None:
        """Nothing is due: MLX keeps few freed buffers of the CPU."""

    def overlap(self, step_s: float) -> bool:
        return step_s <= LONG_STEP_S

    def original(self) -> AbstractContextManager[None]:
        return rope_norm.original()

    def housekeeping(self) -> None:
        # The cache folder may be cleared while the engine runs.
        keep_kernels(self._kernels_dir, os.environ)
        if self._builder is not None and rope_norm.built(self._builder):
            self._builder = None

    def idle(self) -> None:
        malloc.give_back()
