"""The engine as on a Mac: the GPU backend, without the CPU backend."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.backend.gpu import CACHE_LEAST_BYTES, GpuBackend, cache_limit_bytes
from mlxd.daemon.engine.prefill.chunks import Prefill
from mlxd.daemon.engine.start import choose_backend

ALL_OF_AN_ENGINE = """
import sys
import mlxd.daemon.engine.start
from mlxd.daemon.engine.backend.gpu import GpuBackend

backend = GpuBackend()
backend.before_pass(8, 1 << 20)
assert backend.overlap(1.0)
backend.housekeeping()
backend.idle()
print(*(name for name in sys.modules if name.startswith("mlxd.daemon.engine.backend")))
"""


def test_the_gpu_backend_imports_no_cpu_backend() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ALL_OF_AN_ENGINE],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    imported = ran.stdout.split()
    assert "mlxd.daemon.engine.backend.gpu" in imported
    assert not [name for name in imported if ".backend.cpu" in name]


def test_the_backend_matches_the_default_device() -> None:
    device = "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"
    assert choose_backend(None).describe()["device"] == device


def test_freed_buffers_are_bounded_and_given_back_after_a_chunk(tiny_model: Any) -> None:
    backend = GpuBackend()
    before = mx.set_cache_limit(0)
    try:
        mx.set_cache_limit(cache_limit_bytes(2**30))
        prompt = Prefill(tiny_model, [number % 96 for number in range(2000)])
        while prompt.left:
            prompt.run(512)
            assert mx.get_cache_memory() <= cache_limit_bytes(2**30)
            backend.after_prefill()
            assert mx.get_cache_memory() == 0
        mx.eval(mx.zeros((256, 1024)) + 1)
        backend.idle()
        assert mx.get_cache_memory() == 0
    finally:
        mx.set_cache_limit(before)


def test_the_limit_of_freed_buffers_is_a_small_share_of_the_budget() -> None:
    assert cache_limit_bytes(20 * 2**30) == 2**30
    assert cache_limit_bytes(2**20) == CACHE_LEAST_BYTES
