"""Requests as the engine parses them."""

from __future__ import annotations

from typing import Any

from mlxd.daemon.engine.generation import GenerationRequest
from support.engine_process import POCKET


def asking(method: str, params: dict[str, Any], request_id: int = 1) -> GenerationRequest:
    """Return a request for pocket."""
    return GenerationRequest.from_map(
        {
            "rid": request_id,
            "method": method,
            "model": {"name": "pocket", "path": str(POCKET)},
            "params": params,
        }
    )
