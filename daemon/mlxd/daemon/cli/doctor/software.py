"""Checks of the installed packages, MLX and the memory."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from typing import Any

from mlxd.daemon.blas import blas_kind, find_blas, preloaded_blas, with_blas
from mlxd.daemon.cli.doctor.check import Finding, Machine
from mlxd.daemon.isolation import python_command
from mlxd.daemon.version import version

_PACKAGES = ("mlx", "mlx-lm", "llguidance", "msgpack", "click")
_SLOW_GFLOPS = 10.0
"""The reference BLAS of the wheel reaches 1.5 on a machine where OpenBLAS reaches 76."""

_SCARCE_MEMORY = 8 * 10**9
_PRESSURE = {"2": "warning", "4": "critical"}

PROBE = "mlxd.daemon.engine.backend.probe"


def packages(_machine: Machine) -> Finding:
    """Are all required packages installed?"""
    found, missing = [f"mlxd {version()}", f"Python {platform.python_version()}"], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        step = f"{sys.executable} -m pip install {' '.join(missing)}"
        detail = f"Missing: {', '.join(missing)}. Installed: {', '.join(found)}"
        return Finding("packages", "fail", detail, step)
    return Finding("packages", "ok", ", ".join(found), summary=found[0])


def backend(machine: Machine) -> Finding:
    """Does MLX start, on which device, and how fast does it multiply matrices?"""
    environ = with_blas(machine.environ, find_blas(machine.platform))
    outcome = machine.run(python_command(PROBE, machine.environ), environ)
    if outcome.status != 0:
        last = outcome.output.splitlines()[-1:] or [f"status {outcome.status}"]
        return Finding(
            "backend",
            "fail",
            f"MLX does not start: {last[0]}",
            f"Reinstall it: {sys.executable} -m pip install --force-reinstall mlx",
        )
    about: dict[str, Any] = json.loads(outcome.output.splitlines()[-1])
    kind = "Metal" if about["metal"] else about["device"].upper()
    speed = f"{kind}, {about['gflops']:.0f} GFLOP/s in float32"
    if about["device"] == "gpu":
        return Finding("backend", "ok", speed, summary=kind)
    return _cpu(machine, speed, about["gflops"], preloaded_blas(environ))


def _cpu(machine: Machine, speed: str, gflops: float, library: str) -> Finding:
    if machine.platform == "darwin":
        step = (
            "MLX does not use the GPU. Install a native arm64 Python on a Mac with Apple silicon."
        )
        return Finding("backend", "warn", speed, step)
    if not library:
        step = "Install a fast BLAS: sudo apt install libblis4-pthread"
        return Finding("backend", "warn", f"{speed}, with the reference BLAS", step)
    detail = f"{speed}, {blas_kind(library)} {library}"
    if gflops < _SLOW_GFLOPS:
        return Finding("backend", "warn", detail, "The processor is slow or busy. See: top")
    return Finding("backend", "ok", detail, summary=f"CPU with {blas_kind(library)}")


def memory(machine: Machine) -> Finding:
    """How much memory does the machine have, and how much can the GPU use?"""
    total = machine.total_memory_bytes()
    parts = [f"{total / 1e9:.1f} GB"]
    if machine.platform == "darwin":
        parts.append(_wired_limit(machine))
        pressure = _sysctl(machine, "kern.memorystatus_vm_pressure_level")
        if pressure in _PRESSURE:
            parts.append(f"pressure: {_PRESSURE[pressure]}")
            step = "Close other programs, or free models: mlx ps, mlx unload NAME"
            return Finding("memory", "warn", ", ".join(parts), step)
    if machine.config.memory_budget_bytes is not None:
        parts.append(f"budget {machine.config.memory_budget_bytes / 1e9:.1f} GB")
        if machine.config.memory_budget_bytes > total:
            step = "Lower memory_budget_bytes in config.toml. It exceeds the machine's memory."
            return Finding("memory", "warn", ", ".join(parts), step)
    if total < _SCARCE_MEMORY:
        step = "Use models of at most half that size, in 4 bits on a Mac."
        return Finding("memory", "warn", ", ".join(parts), step)
    return Finding("memory", "ok", ", ".join(parts))


def _wired_limit(machine: Machine) -> str:
    limit = _sysctl(machine, "iogpu.wired_limit_mb")
    if not limit.isdecimal() or limit == "0":
        return "wired limit of the system"
    return f"wired limit {int(limit) * 2**20 / 1e9:.1f} GB"


def _sysctl(machine: Machine, name: str) -> str:
    outcome = machine.run(("sysctl", "-n", name), machine.environ)
    return outcome.output.strip() if outcome.status == 0 else ""
