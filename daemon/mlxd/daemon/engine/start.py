"""Puts the engine together: device, budget, caches, loop."""

from __future__ import annotations

import gc
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon.blas import blas_kind, preloaded_blas
from mlxd.daemon.engine.backend.cpu import rope_norm
from mlxd.daemon.engine.backend.cpu.kernels import keep_kernels
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import Inbox, Link
from mlxd.daemon.engine.loop import Engine
from mlxd.daemon.engine.models import memory
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.tokenization.worker import Preparer

NO_KERNELS = (
    "There is no folder of one's own for what MLX compiles, so that it computes without. "
    "Let the cache folder be writable, or set TMPDIR to a folder that only you can write to."
)
PREFIX_MEMORY_SHARE = 0.1
"""Share of the memory budget that remembered prompts may take, where nothing is configured."""


def serve(link: Link, inbox: Inbox, options: EngineOptions) -> str:
    """Run the loop; returns why it ended."""
    device = device_record()
    builder = None
    if device["backend"] == "cpu":
        memory.keep_freed()
    if not keep_kernels(options.kernels_dir, os.environ):
        print(NO_KERNELS, file=sys.stderr, flush=True)
        mx.disable_compile()
        device["blas"] = f"{device['blas']}, nothing compiled".removeprefix(", ")
    elif device["backend"] == "cpu":
        builder = rope_norm.install()
    budget = options.memory_budget_bytes or memory.default_budget_bytes(device["info"])
    if device["backend"] == "metal":
        # Wiring more than the recommended working set has brought whole machines down.
        recommended = int(device["info"].get("max_recommended_working_set_size", budget))
        mx.set_wired_limit(min(budget, recommended))
    prefix_bytes = options.prefix_cache_memory_bytes
    engine = Engine(
        inbox=inbox,
        link=link,
        preparer=Preparer(inbox),
        prefixes=PrefixCache(
            memory_bytes=int(budget * PREFIX_MEMORY_SHARE)
            if prefix_bytes is None
            else prefix_bytes,
            disk_dir=Path(options.prefix_cache_dir) if options.prefix_cache_dir else None,
            disk_bytes=options.prefix_cache_disk_bytes,
        ),
        options=options,
        budget_bytes=budget,
        kernel_builder=builder,
    )
    link.notify(
        "hello",
        {
            "pid": os.getpid(),
            "mlx": version("mlx"),
            "mlx_lm": version("mlx-lm"),
            "device": device["device"],
            "backend": device["backend"],
            "blas": device["blas"],
            "memory_budget_bytes": budget,
        },
    )
    # What was imported stays: the collector need not walk through all of it between two tokens.
    gc.freeze()
    reason = engine.run()
    engine.prefixes.flush(timeout_s=5.0)
    return reason


def device_record() -> dict[str, Any]:
    """Return what computes here: device, backend, BLAS, and MLX's own facts about it."""
    gpu = mx.default_device() == mx.Device(mx.gpu)
    backend = "cpu"
    if gpu:
        backend = "metal" if mx.metal.is_available() else "cuda"
    info: dict[str, Any] = dict(mx.device_info()) if gpu else {}
    return {
        "device": "gpu" if gpu else "cpu",
        "backend": backend,
        "blas": _blas() if not gpu else "",
        "info": info,
    }


def _blas() -> str:
    if sys.platform == "darwin":
        return "accelerate"
    return blas_kind(preloaded_blas(os.environ)) or "reference (slow)"
