"""The path that a Mac takes: everything of the engine, without the CPU's backend."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx

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


def test_an_engine_on_a_gpu_imports_nothing_of_the_cpu() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ALL_OF_AN_ENGINE],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    imported = ran.stdout.split()
    assert "mlxd.daemon.engine.backend.gpu" in imported
    assert not [name for name in imported if ".backend.cpu" in name]


def test_the_backend_is_that_of_the_default_device() -> None:
    device = "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"
    assert choose_backend(None).describe()["device"] == device
