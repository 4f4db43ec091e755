"""LM Studio's list of models."""

from __future__ import annotations

from typing import Any

from mlxd.http.dialects import models
from mlxd.http.routes import Call
from mlxd.protocol.errors import ModelNotFound


async def handle_list(call: Call) -> None:
    """Answer GET /api/v0/models."""
    await call.exchange.reply_json(200, {"object": "list", "data": await _entries(call)})


async def handle_one(call: Call) -> None:
    """Answer GET /api/v0/models/{id}."""
    found = [one for one in await _entries(call) if one["id"] == call.id]
    if not found:
        raise ModelNotFound(f"There is no model {call.id!r} here.")
    await call.exchange.reply_json(200, found[0])


async def _entries(call: Call) -> list[dict[str, Any]]:
    async with call.daemon.connect() as client:
        listed = models.usable(await client.request("models.list"))
        loaded = {one["path"] for one in (await client.request("ps"))["models"]}
    return [entry(name, record, record.get("path") in loaded) for name, record in listed]


def entry(name: str, record: dict[str, Any], is_loaded: bool) -> dict[str, Any]:
    """Return a model of the list."""
    bits, context = record.get("bits"), record.get("context_tokens")
    found = {
        "id": name,
        "object": "model",
        "type": "llm",
        "publisher": name.partition("/")[0] if "/" in name else "mlxd",
        "arch": record.get("architecture"),
        "compatibility_type": "mlx",
        "quantization": f"{bits}bit" if bits else record.get("dtype"),
        "state": "loaded" if is_loaded else "not-loaded",
        "max_context_length": context,
    }
    return {**found, "loaded_context_length": context} if is_loaded else found
