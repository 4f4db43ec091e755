"""Puts the engine together: device, budget, caches, loop."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon.blas import blas_kind, preloaded_blas
from mlxd.daemon.engine.backend.cpu import rope_norm
from mlxd.daemon.engine.backend.cpu.blas import blas_threads
from mlxd.daemon.engine.backend.cpu.kernels import keep_kernels
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import Inbox, Link
from mlxd.daemon.engine.loads import Loads
from mlxd.daemon.engine.loop import Engine
from mlxd.daemon.engine.models import memory
from mlxd.daemon.engine.models.manager import Residents
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.prefill.manager import Prompts
from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.rpc import Rpc
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import Scheduler
from mlxd.daemon.engine.tokenization.worker import Preparer

NO_KERNELS = (
    "There is no folder of one's own for what MLX compiles, so that it computes without. "
    "Let the cache folder be writable, or set TMPDIR to a folder that only you can write to."
)
PREFIX_MEMORY_SHARE = 0.1
"""Share of the memory budget that remembered prompts may take, where nothing is configured."""


def serve(link: Link, inbox: Inbox, progress: Progress, options: EngineOptions) -> str:
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
    prefixes = _prefix_cache(options, budget)
    engine = _compose(link, inbox, progress, options, budget, prefixes, builder)
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
    prefixes.flush(timeout_s=5.0)
    return reason


def _prefix_cache(options: EngineOptions, budget_bytes: int) -> PrefixCache:
    memory_bytes = options.prefix_cache_memory_bytes
    if memory_bytes is None:
        memory_bytes = int(budget_bytes * PREFIX_MEMORY_SHARE)
    folder = options.prefix_cache_dir
    return PrefixCache(
        memory_bytes=memory_bytes,
        disk_dir=Path(folder) if folder else None,
        disk_bytes=options.prefix_cache_disk_bytes,
    )


def _compose(
    link: Link,
    inbox: Inbox,
    progress: Progress,
    options: EngineOptions,
    budget_bytes: int,
    prefixes: PrefixCache,
    kernel_builder: subprocess.Popen[bytes] | None,
) -> Engine:
    """Construct the engine's parts, each complete with those that it uses."""
    preparer = Preparer(inbox)
    scheduler = Scheduler(max_rows=options.max_rows)
    announcer = Announcer(link.notify)
    arrivals = Arrivals()
    requests = ActiveRequests(progress)
    room = MemoryRoom(budget_bytes, scheduler, prefixes)
    residents = Residents(
        preparer=preparer,
        budget_bytes=budget_bytes,
        default_keep_alive_s=options.keep_alive_s,
        requests=requests.count_using,
        kv_bytes=scheduler.kv_in_use,
        make_way=room.trim,
        on_gone=room.model_gone,
        pressure=lambda: memory.pressure(options.pressure_file),
        on_slice=announcer.load,
    )
    prompts = Prompts(
        scheduler=scheduler, prefixes=prefixes, threads=blas_threads(), requests=requests
    )
    runner = Runner(prompts, host_of=residents.hosts.get)
    intake = Intake(
        requests=requests,
        residents=residents,
        runner=runner,
        preparer=preparer,
        arrivals=arrivals,
        kernels_dir=options.kernels_dir,
    )
    return Engine(
        inbox=inbox,
        link=link,
        requests=requests,
        residents=residents,
        runner=runner,
        prefixes=prefixes,
        room=room,
        intake=intake,
        loads=Loads(link=link, requests=requests, residents=residents, room=room, intake=intake),
        rpc=Rpc(
            link=link,
            requests=requests,
            residents=residents,
            runner=runner,
            prefixes=prefixes,
            preparer=preparer,
        ),
        announcer=announcer,
        arrivals=arrivals,
        empty_exit_s=options.empty_exit_s,
        kernel_builder=kernel_builder,
    )


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
