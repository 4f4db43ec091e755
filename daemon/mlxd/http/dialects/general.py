"""Paths that belong to no dialect."""

from __future__ import annotations

from mlxd.http.routes import Call


async def handle_health(call: Call) -> None:
    """Answer GET /health: whether the daemon answers. Starts it if necessary."""
    async with call.daemon.connect() as client:
        await client.request("ping")
    await call.exchange.reply_json(200, {"status": "ok"})


async def handle_metrics(call: Call) -> None:
    """Answer GET /metrics in Prometheus' text format."""
    async with call.daemon.connect() as client:
        found = await client.request("metrics")
    content_type = "text/plain; version=0.0.4; charset=utf-8"
    await call.exchange.reply(200, found["text"].encode(), content_type)
