"""What the engine reports of loaded models, in the terms of the protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.loader import LoadedModel


def record(loaded: LoadedModel, requests: int, now_s: float) -> dict[str, Any]:
    """Return the entry of `ps` for a model that `requests` requests use."""
    return {
        "model": loaded.ref.name,
        "revision": loaded.ref.revision,
        "adapter": loaded.ref.adapter,
        "path": loaded.ref.path,
        "bytes": loaded.bytes,
        "load_s": round(loaded.load_s, 3),
        "idle_s": 0.0 if requests else round(now_s - loaded.last_used_s, 3),
        "keep_alive_s": keep_alive_on_wire(loaded.keep_alive_s),
        "pinned": loaded.pinned,
        "requests": requests,
        "batches": loaded.mergeable,
        "notes": loaded.notes,
        "context_tokens": loaded.tokenizer.context_tokens,
    }


def load_result(loaded: LoadedModel, *, was_loaded: bool) -> dict[str, Any]:
    """Return the result of `load`."""
    return {
        "model": loaded.ref.name,
        "bytes": loaded.bytes,
        "load_s": round(loaded.load_s, 3),
        "was_loaded": was_loaded,
        "pinned": loaded.pinned,
        "keep_alive_s": keep_alive_on_wire(loaded.keep_alive_s),
    }


def keep_alive_on_wire(keep_alive_s: float) -> float:
    """Return a keep-alive time as the protocol expresses it: -1 is forever."""
    return -1 if math.isinf(keep_alive_s) else keep_alive_s


def matches(ref: ModelRef, target: Mapping[str, Any]) -> bool:
    """Whether `unload` targets this model: by name, by folder and adapter, or by parent folder."""
    if ref.name == target.get("name"):
        return True
    if under := target.get("under"):
        return under == "/" or ref.path == under or ref.path.startswith(f"{under}/")
    return ref.path == target.get("path") and ref.adapter == target.get("adapter")
