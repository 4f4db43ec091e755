"""From a request to its handler, by a table that one can see."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlxd.daemon.front.engine.supervisor import as_error
from mlxd.daemon.front.handlers import conversations, models
from mlxd.daemon.front.server.connection import Connection
from mlxd.daemon.models.catalog import ModelRef
from mlxd.daemon.version import version
from mlxd.daemon.words import outline
from mlxd.protocol import PROTOCOL_VERSION
from mlxd.protocol.errors import (
    Cancelled,
    InvalidRequest,
    MethodNotFound,
    MlxdError,
    Overloaded,
)
from mlxd.protocol.messages import MessageId, Notification, Request
from mlxd.protocol.methods import METHODS, validate

if TYPE_CHECKING:
    from mlxd.daemon.conversations.store import Turn
    from mlxd.daemon.front.app import Front

Params = dict[str, Any]
Answer = Any
Handler = Callable[["Front", Connection, MessageId, Params], Answer]

STATS_TIMEOUT_S = 2.0
"""An engine in the middle of a long step is left out of the metrics."""

AT_ONCE = frozenset({"hello", "ping", "status", "cancel", "shutdown"})
"""Answered at once, so that they are not counted: a full connection can still cancel."""

LATER: Any = object()
"""A handler returns this if the answer comes by another way."""


def handle(front: Front, conn: Connection, message: Request | Notification) -> None:
    """Serve one message. Every request is answered exactly once, here or later."""
    if isinstance(message, Notification):
        if message.method == "cancel":
            _cancel_notified(front, conn, message.params)
        return
    try:
        _check_room(front, conn, message)
        params = validate(message.method, message.params)
        handler = HANDLERS.get(message.method)
        if handler is None:
            raise MethodNotFound(f"This build does not have the method {message.method} yet.")
        front.metrics.requests[message.method] += 1
        answer = handler(front, conn, message.id, params)
    except Exception as exc:  # a handler's mistake must not end the connection's other requests
        conn.respond(message.id, error=_logged(front, message.method, exc))
        return
    if isinstance(answer, Awaitable):
        task = asyncio.ensure_future(answer)
        conn.in_flight[message.id] = task
        if params.get("tag") is not None:
            conn.tags[params["tag"]] = message.id
        # By callback: a task that is cancelled before it ran gets no chance to answer.
        task.add_done_callback(lambda done: _answer(front, conn, message, done))
    elif answer is not LATER:
        conn.respond(message.id, answer)


def _answer(front: Front, conn: Connection, message: Request, done: asyncio.Future[Any]) -> None:
    tag = message.params.get("tag")
    if isinstance(tag, (int, str)):
        conn.tags.pop(tag, None)
    if not done.cancelled() and done.exception() is None and done.result() is LATER:
        return
    conn.in_flight.pop(message.id, None)
    if done.cancelled():
        conn.respond(message.id, error=Cancelled("The request was cancelled."))
    elif (exc := done.exception()) is not None:
        conn.respond(message.id, error=_logged(front, message.method, exc))
    else:
        conn.respond(message.id, done.result())


def _logged(front: Front, method: str, exc: BaseException) -> MlxdError:
    error = as_error(exc)
    if error.code == "internal":
        front.log("internal error", level="error", method=method, error=outline(exc))
    return error


def _check_room(front: Front, conn: Connection, message: Request) -> None:
    if message.id in conn.in_flight:
        raise InvalidRequest(f"The id {message.id!r} belongs to a request that is in flight.")
    limit = front.config.max_requests_per_connection
    if message.method in AT_ONCE:
        return
    if len(conn.in_flight) >= limit:
        raise Overloaded(
            f"{limit} requests are in flight on this connection.",
            hint="Wait for an answer, or open another connection.",
            data={"retry_after_s": 1.0, "max_requests_per_connection": limit},
        )


# ---- about the daemon


def _hello(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    config = front.config
    return {
        "server": "mlxd",
        "version": version(),
        "protocol": PROTOCOL_VERSION,
        "capabilities": sorted(HANDLERS),
        "limits": {
            "max_message_bytes": config.max_message_bytes,
            "max_depth": config.max_depth,
            "max_requests_per_connection": config.max_requests_per_connection,
            "max_connections": front.max_connections,
            "max_queue": config.max_queue,
        },
    }


def _ping(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    return {"pong": True}


def _status(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    return front.status()


async def _metrics(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    engine: dict[str, Any] = {}
    if front.supervisor.running:
        # Busy, stuck or dying: the front has numbers of its own, and they are wanted just then.
        with contextlib.suppress(asyncio.TimeoutError, MlxdError):
            engine = await asyncio.wait_for(front.supervisor.call("stats", {}), STATS_TIMEOUT_S)
    gauges = {
        "connections": len(front.connections),
        "requests_in_flight": len(front.requests),
        "requests_running": front.requests.running,
        "requests_queued": len(front.requests) - front.requests.running,
        "uptime_seconds": round(front.uptime_s(), 3),
    }
    restarts = front.supervisor.restarts
    return {"text": front.metrics.text(gauges, engine, engine_restarts=restarts)}


def _shutdown(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    conn.respond(msgid, {"stopping": True, "pid": os.getpid()})
    if params["resume"]:
        front.keep_models()
    front.begin_shutdown(params["drain_s"])
    return LATER


# ---- completions


def _complete(method: str) -> Handler:
    def handler(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
        if params.get("conversation") not in (None, "new"):
            return _continue(front, conn, msgid, method, params)
        model = front.models.known(front.catalog, params)
        if model is None:
            return _find_first(front, conn, msgid, method, params)
        turn = conversations.new_turn(front, method, params)
        _submit(front, conn, msgid, method, params, turn, model)
        return LATER

    return handler


async def _find_first(
    front: Front, conn: Connection, msgid: MessageId, method: str, params: Params
) -> Answer:
    model = await front.models.find(front.catalog, params)
    turn = conversations.new_turn(front, method, params)
    conn.in_flight.pop(msgid, None)
    _submit(front, conn, msgid, method, params, turn, model)
    return LATER


async def _continue(
    front: Front, conn: Connection, msgid: MessageId, method: str, params: Params
) -> Answer:
    """Bring along what was said before."""
    # A request whose model must be looked up on disk is not overtaken by the next of its
    # conversation.
    async with front.recorder.in_order(params["conversation"], params["scope"]):
        turn = await conversations.continued(front, method, params)
        model = await front.models.find(front.catalog, params)
        conn.in_flight.pop(msgid, None)
        _submit(front, conn, msgid, method, params, turn, model)
    return LATER


def _submit(
    front: Front,
    conn: Connection,
    msgid: MessageId,
    method: str,
    params: Params,
    turn: Turn | None,
    model: ModelRef,
) -> None:
    if turn is not None:
        turn = replace(turn, model=model.name)
    front.supervisor.check_health()
    front.requests.submit(conn, msgid, method, params, model.to_map(), turn)


def _cancel(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    by_tag = params["tag"] is not None
    wanted = params["tag"] if by_tag else params["id"]
    return {"cancelled": _cancel_one(front, conn, wanted, by_tag=by_tag)}


def _cancel_notified(front: Front, conn: Connection, params: Params) -> None:
    """A notification is not answered, so that a bad one cannot be refused either."""
    for name in ("id", "tag"):
        wanted = params.get(name)
        if isinstance(wanted, (int, str)):
            _cancel_one(front, conn, wanted, by_tag=name == "tag")


def _cancel_one(front: Front, conn: Connection, wanted: MessageId, *, by_tag: bool) -> bool:
    task = conn.in_flight.get(conn.tags.get(wanted) if by_tag else wanted)
    if isinstance(task, asyncio.Task):
        return task.cancel()
    return front.requests.cancel(conn, wanted, by_tag=by_tag)


# ---- models


async def _load(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    ref = await front.models.find(front.catalog, params)
    asked = {"keep_alive_s": params["keep_alive_s"], "pin": params["pin"]}
    return await front.supervisor.call("load", {"model": ref.to_map(), **asked})


async def _unload(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    loaded = {str(one["model"]): str(one.get("path")) for one in front.supervisor.residents}
    if params["all"]:
        return await models.unload_all(front)
    target = await asyncio.to_thread(front.catalog.loaded_as, params["model"], loaded)
    if not front.supervisor.running:
        return {"unloaded": False, "pending_requests": 0, "models": []}
    return await front.supervisor.call("unload", target.to_map())


async def _ps(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
    running = front.supervisor.running
    answer = await front.supervisor.call("ps", {}) if running else {"models": []}
    return {**answer, "evicted": [*front.supervisor.evicted]}


def _with_tokenizer(method: str) -> Handler:
    async def handler(front: Front, conn: Connection, msgid: MessageId, params: Params) -> Answer:
        given = {key: value for key, value in params.items() if key != "model"}
        model = (await front.models.find(front.catalog, params)).to_map()
        return await front.supervisor.call(method, {"model": model, **given})

    return handler


HANDLERS: dict[str, Handler] = {
    "hello": _hello,
    "ping": _ping,
    "status": _status,
    "metrics": _metrics,
    "shutdown": _shutdown,
    "chat": _complete("chat"),
    "generate": _complete("generate"),
    "fill": _complete("fill"),
    "prefill": _complete("prefill"),
    "cancel": _cancel,
    "tokenize": _with_tokenizer("tokenize"),
    "detokenize": _with_tokenizer("detokenize"),
    "load": _load,
    "unload": _unload,
    "ps": _ps,
    **models.HANDLERS,
    **conversations.HANDLERS,
}
assert HANDLERS.keys() <= METHODS.keys(), "a handler without a method"
