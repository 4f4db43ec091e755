"""What a model folder says about itself, read without loading it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlxd.protocol.errors import ModelLoadFailed

HEADER_MAX_BYTES = 100 * 2**20  # the safetensors library's own limit
LOAD_OVERHEAD = 1.05
"""Resident memory beside the weights: scales, buffers of the first steps."""
KV_ROOM_TOKENS = 1024
"""What must fit beside the weights at the least: a prompt, and an answer of default length."""


def check_folder(folder: Path) -> None:
    """Raise ModelLoadFailed, with what to do, where the folder cannot be a model for MLX."""
    if not folder.is_dir():
        raise ModelLoadFailed(f"{folder} is not a folder.", hint="Check the path.")
    config = read_config(folder)
    if not isinstance(config.get("model_type"), str):
        raise ModelLoadFailed(f"{folder / 'config.json'} names no model_type.")
    weight_files(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json`."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadFailed(
            f"{folder} has no config.json.",
            hint="It is no model folder, or the download is incomplete: mlx models pull NAME",
        ) from None
    except (OSError, ValueError) as exc:
        raise ModelLoadFailed(f"{path} cannot be read: {exc}") from exc
    if not isinstance(config, dict):
        raise ModelLoadFailed(f"{path} is not a JSON object.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files, none of them missing.

    Raises:
        ModelLoadFailed: there are none, or the index names some that are not there.
    """
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("model*.safetensors"))
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
            raise ModelLoadFailed(f"{index} cannot be read: {exc}") from exc
        if missing := sorted(name for name in named if not (folder / name).exists()):
            raise ModelLoadFailed(
                f"{folder} lacks {len(missing)} of {len(named)} weight files, {missing[0]} first.",
                hint="The download is incomplete: mlx models pull NAME goes on where it stopped.",
                data={"missing": missing},
            )
        # Older folders hold leftovers beside what the index names; mlx-lm reads them all.
    if not files:
        other = [p.name for p in folder.iterdir() if p.suffix in (".gguf", ".bin", ".pt", ".pth")]
        hint = "Convert it: mlx models convert NAME --output FOLDER" if other else ""
        what = f"only {other[0]}" if other else "no weights"
        raise ModelLoadFailed(f"{folder} has {what}, and MLX reads model*.safetensors.", hint=hint)
    return files


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors header: tensor name to `{dtype, shape, data_offsets}`.

    Format: 8 bytes length, little endian, then JSON, then data (huggingface/safetensors).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(HEADER_MAX_BYTES, size - 8):
                raise ModelLoadFailed(_not_safetensors(path, start), hint=_DAMAGED)
            header = json.loads(file.read(length))
    except OSError as exc:
        raise ModelLoadFailed(f"{path} cannot be read: {exc}") from exc
    except ValueError as exc:
        raise ModelLoadFailed(_not_safetensors(path, start), hint=_DAMAGED) from exc
    if not isinstance(header, dict):
        raise ModelLoadFailed(_not_safetensors(path, start), hint=_DAMAGED)
    try:
        end = max((end for _, end in _offsets(header)), default=0)
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelLoadFailed(_not_safetensors(path, start), hint=_DAMAGED) from exc
    if 8 + length + end > size:
        raise ModelLoadFailed(
            f"{path} is cut off: {size} bytes of {8 + length + end}.", hint=_DAMAGED
        )
    return header


_DAMAGED = "The file is damaged or incomplete: delete it, and pull the model again."


def _not_safetensors(path: Path, start: bytes) -> str:
    if start.startswith(b"version "):
        return f"{path} is a Git LFS pointer, not the weights."
    if start.lstrip()[:1] == b"<":
        return f"{path} is a web page, not weights."
    return f"{path} is not a safetensors file."


def weights_bytes(folder: Path) -> int:
    """Return the bytes of all tensors in the folder."""
    total = 0
    for path in weight_files(folder):
        total += sum(end - begin for begin, end in _offsets(read_header(path)))
    return total


def _offsets(header: dict[str, Any]) -> list[tuple[int, int]]:
    """Return where each tensor's bytes begin and end."""
    found = []
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            if not 0 <= begin <= end:
                raise ValueError(f"{name} ends before it begins")
            found.append((begin, end))
    return found


def estimate_resident_bytes(folder: Path) -> int:
    """Return the memory that the loaded model will take, without any KV cache."""
    return int(weights_bytes(folder) * LOAD_OVERHEAD)


def kv_room_bytes(folder: Path) -> int:
    """Return the memory of a short conversation's KV cache: without it a model is of no use."""
    config = read_config(folder)
    dtype = text_config(config).get("torch_dtype") or text_config(config).get("dtype")
    item_bytes = 4 if dtype == "float32" else 2
    return KV_ROOM_TOKENS * (kv_bytes_per_token(config, item_bytes) or 0)


def estimate_adapter_bytes(folder: Path) -> int:
    """Return the memory that a LoRA adapter adds to its base."""
    files = folder.glob("*.safetensors")
    total = sum(end - begin for path in files for begin, end in _offsets(read_header(path)))
    return int(total * LOAD_OVERHEAD)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the configuration that describes the language model."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, dict) else config


def context_tokens(config: dict[str, Any]) -> int | None:
    """Return the context length in tokens, or None where the configuration does not say."""
    inner = text_config(config)
    for key in ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length"):
        value = inner.get(key)
        if isinstance(value, int) and value > 0:
            return _scaled(value, inner.get("rope_scaling"))
    return None


EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embeddings", "embed_in", "tok_embeddings")
"""What architectures of mlx-lm call the matrix that has one row for each token."""


def vocabulary_size(folder: Path, config: dict[str, Any]) -> int | None:
    """Return how many tokens the model has, whatever its tokenizer has; None where unknown.

    mlx-lm builds the embedding from `vocab_size` and refuses weights of another shape. Where the
    configuration does not state it, the weights do.
    """
    inner = text_config(config)
    for key in ("vocab_size", "padded_vocab_size", "n_vocab"):
        value = inner.get(key)
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


def _scaled(tokens: int, scaling: Any) -> int:
    """Return the context with RoPE scaling, where the configuration still states the original.

    Most configurations state the scaled length; those of Qwen's YaRN recipe keep both apart.
    """
    if not isinstance(scaling, dict):
        return tokens
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if original == tokens and isinstance(factor, (int, float)) and factor > 1:
        return int(tokens * factor)
    return tokens


def kv_bytes_per_token(config: dict[str, Any], item_bytes: int) -> int | None:
    """Return the KV cache bytes of one token: 2 (K and V) x layers x KV heads x head size x item.

    An upper bound for models with sliding windows; None where the configuration does not say.
    """
    inner = text_config(config)
    layers = inner.get("num_hidden_layers") or inner.get("n_layer")
    heads = inner.get("num_attention_heads") or inner.get("n_head")
    kv_heads = inner.get("num_key_value_heads") or heads
    head_dim = inner.get("head_dim")
    hidden = inner.get("hidden_size") or inner.get("n_embd")
    if not head_dim and hidden and heads:
        head_dim = hidden // heads
    if not (isinstance(layers, int) and isinstance(kv_heads, int) and isinstance(head_dim, int)):
        return None
    return 2 * layers * kv_heads * head_dim * item_bytes


def fingerprint(folder: Path, adapter: str | None = None) -> str:
    """Return a name for exactly these weights and this tokenizer: it changes when they do.

    Headers, sizes and times of the weight files stand for their contents.
    """
    digest = hashlib.blake2b(digest_size=16)
    folders = [folder, Path(adapter)] if adapter else [folder]
    for place in folders:
        for name in (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "adapter_config.json",
        ):
            path = place / name
            if path.is_file():
                digest.update(name.encode() + b"\0" + path.read_bytes())
        for path in sorted(place.glob("*.safetensors")):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
            digest.update(json.dumps(read_header(path), sort_keys=True).encode())
    return digest.hexdigest()
