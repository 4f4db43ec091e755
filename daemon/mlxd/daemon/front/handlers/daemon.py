"""The methods of the daemon itself: `hello`, `ping`, `status`, `metrics`, `shutdown`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from mlxd.daemon.front import handover
from mlxd.daemon.front.handlers.answers import LATER, Answer, Handler, Params
from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.daemon.front.services import Services
from mlxd.daemon.version import version
from mlxd.protocol import PROTOCOL_VERSION
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.methods import METHODS

STATS_TIMEOUT_S = 2.0
"""Seconds that `metrics` waits for the engine's metrics. Afterwards it answers without them."""


def _hello(services: Services, request: RequestInFlight, params: Params) -> Answer:
    config = services.config
    return {
        "server": "mlxd",
        "version": version(),
        "protocol": PROTOCOL_VERSION,
        "capabilities": sorted(METHODS),
        "limits": {
            "max_message_bytes": config.max_message_bytes,
            "max_depth": config.max_depth,
            "max_requests_per_connection": config.max_requests_per_connection,
            "max_connections": services.connections.limit,
            "max_queue": config.max_queue,
        },
    }


def _ping(services: Services, request: RequestInFlight, params: Params) -> Answer:
    return {"pong": True}


def _status(services: Services, request: RequestInFlight, params: Params) -> Answer:
    running = services.requests.running
    return {
        "version": version(),
        "protocol": PROTOCOL_VERSION,
        "pid": os.getpid(),
        "uptime_s": round(services.lifecycle.uptime_s(), 3),
        "state": services.lifecycle.state(),
        "socket": str(services.paths.socket),
        "default_model": services.config.default_model,
        "engine": services.supervisor.status(),
        "models": [_with_requests(services, one) for one in services.supervisor.loaded_models],
        "evicted": [*services.supervisor.evicted],
        "requests": {"running": running, "queued": len(services.requests) - running},
        "connections": len(services.connections),
        "keeps_awake": services.awake.holding,
        "conversations": services.recorder.status(),
    }


def _with_requests(services: Services, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a loaded model with its number of requests now.

    The engine sends records when its set of models changes. `ps` asks it for current ones.
    """
    kept = {name: value for name, value in record.items() if name != "idle_s"}
    return {**kept, "requests": services.requests.of_model(record["path"], record.get("adapter"))}


async def _metrics(services: Services, request: RequestInFlight, params: Params) -> Answer:
    engine: dict[str, Any] = {}
    if services.supervisor.running:
        # The front's own metrics are needed most while the engine is busy, stuck or dying.
        with contextlib.suppress(asyncio.TimeoutError, MlxdError):
            engine = await asyncio.wait_for(services.supervisor.call("stats", {}), STATS_TIMEOUT_S)
    gauges = {
        "connections": len(services.connections),
        "requests_in_flight": len(services.requests),
        "requests_running": services.requests.running,
        "requests_queued": len(services.requests) - services.requests.running,
        "uptime_seconds": round(services.lifecycle.uptime_s(), 3),
    }
    restarts = services.supervisor.restarts
    return {"text": services.metrics.text(gauges, engine, engine_restarts=restarts)}


def _shutdown(services: Services, request: RequestInFlight, params: Params) -> Answer:
    request.respond({"stopping": True, "pid": os.getpid()})
    if params["resume"]:
        loaded_models = services.supervisor.loaded_models
        handover.keep_models(services.paths.resume_file, loaded_models, services.log)
    services.lifecycle.begin_shutdown(params["drain_s"])
    return LATER


HANDLERS: dict[str, Handler] = {
    "hello": _hello,
    "ping": _ping,
    "status": _status,
    "metrics": _metrics,
    "shutdown": _shutdown,
}
