"""Converts a model to MLX's format, optionally quantised, with mlx-lm. Runs in the hub worker."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.convert import convert as mlx_lm_convert

from mlxd.daemon.engine.models.files import read_header
from mlxd.protocol.errors import InvalidParams, MlxdError, ModelLoadFailed

REPORT_EVERY_S = 0.2
Report = Callable[[dict[str, Any]], None]


def convert(request: dict[str, Any], report: Report) -> dict[str, Any]:
    """Convert a model as `request` specifies: `path`, `output`, `bits` (None: not quantised),
    `group_size`, `mode`, `dtype`, `expected_bytes`, `trust_remote_code`.

    The output folder appears complete or not at all. Returns {path, bytes, source_bytes}. Sizes are
    those of the weights.

    Raises:
        InvalidParams: the model cannot be quantised with these options.
        ModelLoadFailed: mlx-lm cannot load it.
    """
    source, output = Path(request["path"]), Path(request["output"])
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    # Conversion needs no compilation, and MLX would search for compiled code in a folder that
    # others may write to (see `kernels`).
    mx.disable_compile()
    # Use the CPU if MLX has no other device, otherwise MLX's default device.
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(partial, request, report, done), daemon=True)
    watcher.start()
    try:
        mlx_lm_convert(
            str(source),
            str(partial),
            quantize=request["bits"] is not None,
            q_bits=request["bits"],
            q_group_size=request["group_size"],
            q_mode=request["mode"] or "affine",
            dtype=request["dtype"],
            trust_remote_code=request["trust_remote_code"],
        )
    except Exception as exc:
        shutil.rmtree(partial, ignore_errors=True)
        raise _translated(exc, request) from exc
    finally:
        done.set()
        watcher.join()
        mx.clear_cache()
    if request["bits"] is not None and not _quantised(partial):
        shutil.rmtree(partial)
        size = request["group_size"] or 64
        raise InvalidParams(
            "group_size",
            f"no layer of {request['name']} can be quantised in groups of {size}",
            hint="Try a smaller group size.",
        )
    partial.rename(output)
    return {
        "path": str(output),
        "bytes": _weights_bytes(output),
        "source_bytes": _weights_bytes(source),
    }


def _quantised(folder: Path) -> bool:
    """Return whether any layer is quantised. mlx-lm skips layers whose width is not divisible by
    the group size."""
    files = folder.glob("*.safetensors")
    return any(name.endswith(".scales") for file in files for name in read_header(file))


def _watch(partial: Path, request: dict[str, Any], report: Report, done: threading.Event) -> None:
    """Report the written bytes until the conversion ends."""
    total = request["expected_bytes"]
    while not done.wait(REPORT_EVERY_S):
        written = min(_weights_bytes(partial), total)
        report({"file": Path(request["output"]).name, "done": written, "total": total})


def _weights_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            total += file.stat().st_size
        except OSError:
            continue  # renamed meanwhile
    return total


def _translated(exc: Exception, request: dict[str, Any]) -> MlxdError:
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, OSError):
        return ModelLoadFailed(
            f"The converted model cannot be written: {text}",
            hint="Free space, or give another --output.",
        )
    if request["bits"] is not None and ("quantiz" in text or "group" in text or "bits" in text):
        return InvalidParams(
            "bits", f"mlx-lm refused the options: {text}", hint="Try --bits 4, group size 64."
        )
    return ModelLoadFailed(
        f"mlx-lm cannot convert {request['name']}: {text}",
        hint=f"Show its details: mlx models show {request['name']}",
        data={"model": request["name"]},
    )
