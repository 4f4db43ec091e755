"""Paths of what the suite builds, and the environments of its contenders.

Each contender has its own virtual environment, so that none is a dependency of the project or
affects another.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import platformdirs

from mlxd.daemon.blas import find_blas, with_blas

CACHE = Path(
    os.environ.get("MLXD_BENCH_DIR") or platformdirs.user_cache_dir("mlxd-bench", appauthor=False)
)
MODELS = CACHE / "models"
PLUGIN_SOURCE = Path(__file__).with_name("llm_plugin")
PLUGIN = CACHE / "llm_plugin"  # a copy, because setuptools builds inside the folder


class NotInstallable(Exception):
    """A contender cannot be installed on this machine. The text gives the reason."""


def mlx_requirements() -> list[str]:
    """Return the project's versions of MLX, so that all contenders use the same engine."""
    mlx, lm = (importlib.metadata.version(name) for name in ("mlx", "mlx-lm"))
    backend = _backend()
    return [f"mlx[{backend}]=={mlx}" if backend else f"mlx=={mlx}", f"mlx-lm=={lm}"]


def mlx_python() -> str:
    """Return the Python of the contenders that use MLX."""
    shutil.copytree(PLUGIN_SOURCE, PLUGIN, dirs_exist_ok=True)
    return environment("mlx", [*mlx_requirements(), "openai", "llm", str(PLUGIN)])


def llama_python() -> str:
    """Return the Python of llama.cpp's server, which is compiled at installation."""
    return environment("llama", ["llama-cpp-python[server]", "gguf", "safetensors"])


def plot_python() -> str:
    return environment("plots", ["matplotlib"])


def vllm_python() -> str:
    """Return the Python of vllm-mlx, which installs its own versions of MLX."""
    backend = _backend()
    return environment("vllm", [f"mlx[{backend}]" if backend else "mlx", "vllm-mlx"])


def environment(name: str, requirements: list[str]) -> str:
    """Return the Python of a virtual environment with these requirements. Creates it if necessary.

    Raises:
        NotInstallable: the installer failed, now or in an earlier run with the same requirements.
    """
    folder = CACHE / name
    python, stamp, failed = folder / "bin" / "python", folder / ".ready", CACHE / f"{name}.failed"
    wanted = "\n".join(requirements) + "\n"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    if failed.exists() and failed.read_text().startswith(wanted):
        raise NotInstallable(failed.read_text()[len(wanted) :].strip())
    print(f"Installing {', '.join(requirements)} into {folder}", file=sys.stderr, flush=True)
    if not python.exists():
        venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        failed.write_text(wanted + (reason or done.stderr.splitlines() or ["unknown"])[0] + "\n")
        raise NotInstallable(failed.read_text()[len(wanted) :].strip())
    stamp.write_text(wanted)
    return str(python)


def mlx_environ(small: bool = True) -> dict[str, str]:
    """Return the environment of the contenders that use MLX: the same that mlxd gives its engine.

    A contender gets the number of threads with which it decodes fastest on a quiet machine: one for
    a `small` model, otherwise all.
    """
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env.pop("PYTHONPATH", None)
    env["BLIS_NUM_THREADS"] = "1" if small else str(os.cpu_count() or 1)
    return with_blas(env, find_blas())


def device() -> str:
    """Return the device on which MLX computes: metal, cuda or cpu."""
    if sys.platform == "darwin":
        return "metal"
    return "cuda" if _backend().startswith("cuda") else "cpu"


def _backend() -> str:
    """Return the extra of `mlx` that the project's environment has: cpu, cuda12, …"""
    installed = [str(dist.metadata["Name"]) for dist in importlib.metadata.distributions()]
    found = [name.removeprefix("mlx-") for name in installed if name.startswith("mlx-c")]
    return min(found, default="", key=lambda name: name == "cpu").replace("-", "")
