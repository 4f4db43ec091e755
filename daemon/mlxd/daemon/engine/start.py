"""Constructs the engine: device, memory budget, caches, loop."""

from __future__ import annotations

import gc
import os
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlxd.daemon.engine.backend.base import Backend
from mlxd.daemon.engine.backend.cuda import CudaBackend
from mlxd.daemon.engine.backend.gpu import GpuBackend
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import Inbox, Link
from mlxd.daemon.engine.loads import Loads
from mlxd.daemon.engine.loop import DEVICE_FAILED, Engine
from mlxd.daemon.engine.models import memory
from mlxd.daemon.engine.models.findings import FindingsStore
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.models.probe import Prober
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.prefill.manager import PrefillManager
from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.rpc import Rpc
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import Scheduler
from mlxd.daemon.engine.tokenization.worker import Preparer

PREFIX_MEMORY_SHARE = 0.2
"""Default share of the memory budget for cached prompts."""


def serve(link: Link, inbox: Inbox, progress: Progress, options: EngineOptions) -> str:
    """Run the loop. Return the reason why it ended."""
    backend = choose_backend(options.kernels_dir)
    budget = options.memory_budget_bytes or memory.default_budget_bytes(backend.memory_info())
    backend.start(budget)
    prefixes = _prefix_cache(options, budget)
    engine = _compose(link, inbox, progress, options, budget, prefixes, backend)
    link.notify(
        "hello",
        {
            "pid": os.getpid(),
            "mlx": version("mlx"),
            "mlx_lm": version("mlx-lm"),
            **backend.describe(),
            "memory_budget_bytes": budget,
        },
    )
    # Imported modules stay loaded, so the garbage collector need not scan them between two tokens.
    gc.freeze()
    reason = engine.run()
    if reason != DEVICE_FAILED:
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
    backend: Backend,
) -> Engine:
    """Construct the engine's parts in the order of their dependencies."""
    preparer = Preparer(inbox)
    scheduler = Scheduler(max_sequences=options.max_sequences)
    announcer = Announcer(link.notify)
    arrivals = Arrivals()
    requests = ActiveRequests(progress)
    room = MemoryRoom(budget_bytes, scheduler, prefixes)
    findings = FindingsStore(
        Path(options.findings_dir) if options.findings_dir else None, backend.describe()["backend"]
    )
    models = ModelManager(
        preparer=preparer,
        prober=Prober(findings, backend.original),
        budget_bytes=budget_bytes,
        default_keep_alive_s=options.keep_alive_s,
        count_requests=requests.count_using,
        kv_bytes=scheduler.kv_in_use,
        make_way=room.trim,
        on_unload=room.model_unloaded,
        pressure=lambda: memory.pressure(options.pressure_file),
        on_slice=announcer.load,
        give_back=backend.idle,
        warm_up_tokens=backend.warm_up_tokens,
        chunk_step_tokens=backend.chunk_step_tokens,
    )
    prompts = PrefillManager(
        scheduler=scheduler, prefixes=prefixes, backend=backend, requests=requests
    )
    runner = Runner(prompts, find_loaded=models.loaded.get)
    intake = Intake(
        requests=requests,
        models=models,
        runner=runner,
        preparer=preparer,
        arrivals=arrivals,
    )
    return Engine(
        inbox=inbox,
        link=link,
        requests=requests,
        models=models,
        runner=runner,
        prefixes=prefixes,
        room=room,
        intake=intake,
        loads=Loads(link=link, requests=requests, models=models, room=room, intake=intake),
        rpc=Rpc(
            link=link,
            requests=requests,
            models=models,
            runner=runner,
            prefixes=prefixes,
            preparer=preparer,
        ),
        announcer=announcer,
        arrivals=arrivals,
        empty_exit_s=options.empty_exit_s,
        backend=backend,
    )


def choose_backend(kernels_dir: str | None) -> Backend:
    """Return the backend of MLX's default device."""
    if mx.default_device() == mx.Device(mx.gpu):
        return GpuBackend() if mx.metal.is_available() else CudaBackend(kernels_dir)
    # Imported here, because a machine with a GPU never needs it.
    from mlxd.daemon.engine.backend.cpu.backend import CpuBackend

    return CpuBackend(kernels_dir)
