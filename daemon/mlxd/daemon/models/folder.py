"""Describes a model's folder from its files and headers. The weights are not read."""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxd.daemon.models import files
from mlxd.daemon.models.architecture import context_tokens
from mlxd.daemon.models.records import ModelRecord
from mlxd.daemon.models.safetensors import Damaged, Header, read_header

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_OTHER_FORMATS = {
    ".gguf": "GGUF",
    ".bin": "PyTorch",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".npz": "NPZ",
}


class BrokenFolder(Exception):
    """The folder cannot be loaded as a model. `remedy` is pull, convert or choose."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class _Weights:
    parameters: int
    dtype: str | None


def check_folder(path: Path) -> list[Path]:
    """Return the weight files of a folder whose file list is complete.

    Raises:
        BrokenFolder: config.json or weights are missing or in another format.
    """
    try:
        files.read_object(path / "config.json")
        files.check_entries(path)
        shards = _expected_shards(path)
    except FileNotFoundError:
        raise _not_a_model(path) from None
    except files.Unreadable as exc:
        raise BrokenFolder(f"its {exc.path.name} {exc.reason}", "pull") from exc
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise BrokenFolder(
            f"{len(missing)} of {len(shards)} weight files are missing ({missing[0]}, …)"
            if len(missing) > 1
            else f"a weight file is missing ({missing[0]})",
            "pull",
        )
    found = [path / shard for shard in shards] or sorted(path.glob("model*.safetensors"))
    if not found:
        raise _no_weights(path)
    return found


def _not_a_model(path: Path) -> BrokenFolder:
    if other := _other_format(path):
        return BrokenFolder(f"it has {other} weights and no config.json", "convert")
    return BrokenFolder("it has no config.json", "pull")


def _no_weights(path: Path) -> BrokenFolder:
    if other := _other_format(path):
        return BrokenFolder(f"its weights are in {other} format, not in MLX format", "convert")
    return BrokenFolder("it has no weights (model*.safetensors)", "pull")


def _other_format(path: Path) -> str | None:
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return None
    return next((kind for n in names if (kind := _OTHER_FORMATS.get(Path(n).suffix))), None)


def _expected_shards(path: Path) -> tuple[str, ...]:
    index = path / files.INDEX_NAME
    try:
        seen = index.stat()
    except OSError:
        return ()
    return _index_shards(str(path), seen.st_mtime_ns, seen.st_size)


# The key includes time and size, so an entry is never stale. A large index is read once.
@functools.lru_cache(maxsize=64)
def _index_shards(folder: str, _mtime_ns: int, _size: int) -> tuple[str, ...]:
    return tuple(sorted(files.indexed_names(Path(folder))))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if it cannot be read."""
    try:
        return files.read_object(path)
    except (OSError, files.Unreadable):
        return None


def describe(name: str, path: Path, source: str, revision: str | None = None) -> ModelRecord:
    """Return the record of a model's folder. If the folder is broken, `problem` says why."""
    try:
        found = check_folder(path)
        problem = None
    except BrokenFolder as exc:
        found, problem = sorted(path.glob("*.safetensors")), exc.problem
    config = read_json(path / "config.json") or {}
    bits, group_size = _quantization(config)
    weights, truncated = _weights(found, bits)
    return ModelRecord(
        name=name,
        path=str(path),
        source=source,
        bytes=sum(_size_of(file) for file in found),
        bits=bits,
        group_size=group_size,
        dtype=weights.dtype,
        context_tokens=context_tokens(config),
        architecture=_text(config.get("model_type")),
        parameters=weights.parameters or None,
        chat_template=_has_template(path),
        revision=revision,
        problem=problem or truncated,
    )


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _quantization(config: dict[str, Any]) -> tuple[int | None, int | None]:
    about = config.get("quantization") or config.get("quantization_config")
    if not isinstance(about, dict):
        return None, None
    bits, group_size = about.get("bits"), about.get("group_size")
    return (
        bits if isinstance(bits, int) and 0 < bits <= 32 else None,
        group_size if isinstance(group_size, int) and group_size > 0 else None,
    )


def _has_template(path: Path) -> bool:
    if any((path / name).is_file() for name in _TEMPLATE_FILES):
        return True
    return bool((read_json(path / "tokenizer_config.json") or {}).get("chat_template"))


def _weights(found: list[Path], bits: int | None) -> tuple[_Weights, str | None]:
    total, dtypes, problem = 0, dict[str, int](), None
    for file in found:
        try:
            files.check_entry(file)
            seen = file.stat()
            part = _file_weights(str(file), seen.st_mtime_ns, seen.st_size, bits)
        except (OSError, files.Unreadable):
            continue
        except BrokenFolder as exc:
            problem = exc.problem
            continue
        total += part.parameters
        if part.dtype:
            dtypes[part.dtype] = dtypes.get(part.dtype, 0) + part.parameters
    return _Weights(total, max(dtypes, key=lambda d: dtypes[d], default=None)), problem


@functools.lru_cache(maxsize=512)
def _file_weights(file: str, _mtime_ns: int, _size: int, bits: int | None) -> _Weights:
    try:
        return _count(read_header(Path(file)), bits)
    except Damaged as exc:
        raise BrokenFolder(f"{exc.path.name} {exc.reason}", "pull") from exc


def _count(tensors: Header, bits: int | None) -> _Weights:
    """Count the parameters. Quantised weights are packed into 32-bit words.

    Their scales and biases are not parameters of the model. The type is that of the other weights.
    """
    total, dtypes = 0, dict[str, int]()
    for name, entry in tensors.items():
        stem, _, last = name.rpartition(".")
        packed = f"{stem}.scales" in tensors
        if packed and last in ("scales", "biases"):
            dtype = entry["dtype"]
            dtypes[dtype] = dtypes.get(dtype, 0) + 1
            continue
        elements = math.prod(entry["shape"])
        if packed and last == "weight" and bits:
            total += elements * 32 // bits
        else:
            total += elements
            dtypes[entry["dtype"]] = dtypes.get(entry["dtype"], 0) + elements
    return _Weights(total, max(dtypes, key=lambda d: dtypes[d], default=None))
