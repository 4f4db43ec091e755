"""Reads a model folder's description of the model without loading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlxd.daemon.models import architecture, files, safetensors
from mlxd.daemon.models.safetensors import Header, data_bytes
from mlxd.protocol.errors import ModelLoadFailed

LOAD_OVERHEAD = 1.05
"""Memory beside the weights: scales, and buffers of the first steps."""
LAYERS_MAX = 10_000
KV_ROOM_TOKENS = 1024
"""Minimum memory beside the weights: the KV cache of a prompt and an answer of default length."""


def check_folder(folder: Path) -> None:
    """Raise ModelLoadFailed, with the next step, if the folder cannot be an MLX model."""
    if not folder.is_dir():
        raise ModelLoadFailed(f"{folder} is not a folder.", hint="Check the path.")
    config = read_config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ModelLoadFailed(f"{folder / 'config.json'} has no model_type.")
    if (layers := architecture.layers(config)) > LAYERS_MAX:
        # Checked before the tokenizer is loaded, because transformers creates a list with an entry
        # for each layer.
        raise ModelLoadFailed(
            f"{folder / 'config.json'} describes {layers} layers, which no model has.",
            hint=_UNREADABLE,
        )
    check_files(folder)
    weight_files(folder)


def check_files(folder: Path) -> None:
    """Raise ModelLoadFailed for a weight file that is not a safetensors file."""
    try:
        files.check_entries(folder)
    except files.Unreadable as exc:
        raise ModelLoadFailed(f"{exc}.", hint=_UNREADABLE) from exc


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json`."""
    try:
        return files.read_object(folder / "config.json")
    except FileNotFoundError:
        raise ModelLoadFailed(
            f"{folder} has no config.json.",
            hint="If its download is incomplete, resume it: mlx models pull NAME",
        ) from None
    except files.Unreadable as exc:
        raise ModelLoadFailed(f"{exc}.", hint=_UNREADABLE) from exc


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files.

    Raises:
        ModelLoadFailed: there are none, or files that the index lists are missing.
    """
    named = _indexed(folder)
    if missing := sorted(name for name in named if not (folder / name).exists()):
        raise ModelLoadFailed(
            f"{folder} lacks {len(missing)} of {len(named)} weight files, {missing[0]} first.",
            hint="The download is incomplete. Resume it: mlx models pull NAME",
            data={"missing": missing},
        )
    # Older folders contain files that the index does not list. mlx-lm reads them all.
    found = sorted(folder.glob("model*.safetensors"))
    if not found:
        other = [p.name for p in folder.iterdir() if p.suffix in (".gguf", ".bin", ".pt", ".pth")]
        hint = "Convert it: mlx models convert NAME --output FOLDER" if other else ""
        what = f"only {other[0]}" if other else "no weights"
        raise ModelLoadFailed(f"{folder} has {what}, but MLX reads model*.safetensors.", hint=hint)
    return found


def _indexed(folder: Path) -> set[str]:
    """Return the file names in the index of the weights, or none without an index."""
    try:
        return files.indexed_names(folder)
    except files.Unreadable as exc:
        raise ModelLoadFailed(f"{exc}.", hint=_UNREADABLE) from exc


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file. Raises ModelLoadFailed."""
    try:
        return safetensors.read_header(path)
    except files.Unreadable as exc:
        hint = _DAMAGED if isinstance(exc, safetensors.Damaged) else _UNREADABLE
        raise ModelLoadFailed(f"{exc}.", hint=hint) from exc


_UNREADABLE = "Restore the file, or download the model again: mlx models pull NAME"
_DAMAGED = "Delete the file, and download the model again: mlx models pull NAME"


def weights_bytes(folder: Path) -> int:
    """Return the size of all tensors in the folder, in bytes.

    Raises:
        ModelLoadFailed: a file is damaged, or config.json describes more layers than there are
            tensors. mlx-lm would build all layers before it compares.
    """
    headers = [read_header(path) for path in weight_files(folder)]
    tensors = sum(len(header) for header in headers)
    layers = architecture.layers(read_config(folder))
    if layers > tensors:
        raise ModelLoadFailed(
            f"{folder / 'config.json'} describes {layers} layers, but the weights have only "
            f"{tensors} tensors.",
            hint=_DAMAGED,
        )
    return sum(map(data_bytes, headers))


def estimate_resident_bytes(folder: Path) -> int:
    """Return the memory that the loaded model needs, without any KV cache."""
    return int(weights_bytes(folder) * LOAD_OVERHEAD)


def kv_room_bytes(folder: Path) -> int:
    """Return the memory for the KV cache of a short conversation, without which a model is
    useless."""
    config = read_config(folder)
    inner = architecture.text_config(config)
    item_bytes = 4 if (inner.get("torch_dtype") or inner.get("dtype")) == "float32" else 2
    return KV_ROOM_TOKENS * (architecture.kv_bytes_per_token(config, item_bytes) or 0)


def estimate_adapter_bytes(folder: Path) -> int:
    """Return the memory that a LoRA adapter adds to its base model."""
    found = folder.glob("*.safetensors")
    return int(sum(data_bytes(read_header(path)) for path in found) * LOAD_OVERHEAD)


VOCABULARY_MAX_TOKENS = 2**24
"""Above any model's vocabulary. The limit exists because a list with one text per token is
built."""
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in", "tok_embeddings")
"""Names that architectures of mlx-lm use for the matrix with one row per token."""


def vocabulary_size(folder: Path, config: dict[str, Any]) -> int | None:
    """Return the model's number of tokens, which may differ from its tokenizer's, or None.

    mlx-lm builds the embedding from `vocab_size` and refuses weights of another shape. If the
    configuration does not state it, the weights do.
    """
    inner = architecture.text_config(config)
    for key in ("vocab_size", "padded_vocab_size", "n_vocab"):
        value = inner.get(key)
        if isinstance(value, int) and value > VOCABULARY_MAX_TOKENS:
            raise ModelLoadFailed(f"config.json: {key} is {value}, which no model has.")
        if isinstance(value, int) and value > 0:
            return value
    try:
        headers = [read_header(path) for path in weight_files(folder)]
    except (ModelLoadFailed, OSError):
        return None
    rows = [
        tensor["shape"][0]
        for header in headers
        for name, tensor in header.items()
        if name.split(".")[-2:-1] and name.split(".")[-2] in EMBEDDINGS and name.endswith(".weight")
    ]
    return min(rows, default=None)


def fingerprint(folder: Path, adapter: str | None = None) -> str:
    """Return an identifier of these weights and this tokenizer. It changes when they do.

    Headers, sizes and times of the weight files represent their contents.
    """
    digest = hashlib.blake2b(digest_size=16)
    folders = [(folder, "model*.safetensors")]
    if adapter:
        folders.append((Path(adapter), "adapters.safetensors"))
    for place, pattern in folders:
        for name in (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "adapter_config.json",
        ):
            path = place / name
            if path.is_file():
                digest.update(name.encode() + b"\0" + path.read_bytes())
        # Only files that are loaded: others may be broken symlinks.
        for path in sorted(place.glob(pattern)):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
            digest.update(json.dumps(read_header(path), sort_keys=True).encode())
    return digest.hexdigest()
