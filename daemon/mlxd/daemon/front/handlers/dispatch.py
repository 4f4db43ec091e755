"""Dispatches messages to their handlers with one table, and handles cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from mlxd.daemon.front.errors import as_error
from mlxd.daemon.front.handlers import completions, conversations, daemon, models
from mlxd.daemon.front.handlers.answers import LATER, Answer, Handler, Params
from mlxd.daemon.front.server.connection import Connection, RequestInFlight
from mlxd.daemon.front.services import Services
from mlxd.daemon.stderr import error_summary
from mlxd.protocol.errors import Cancelled, InvalidRequest, MlxdError, Overloaded
from mlxd.protocol.messages import Notification, Request
from mlxd.protocol.methods import METHODS, validate

AT_ONCE = frozenset({"hello", "ping", "status", "cancel", "shutdown"})
"""Answered at once and not counted, so that a connection at its limit can still cancel."""


def handle(services: Services, conn: Connection, message: Request | Notification) -> None:
    """Serve one message. Every request is answered exactly once, here or later."""
    if isinstance(message, Notification):
        if message.method == "cancel":
            _cancel_notified(conn, message.params)
        return
    tag = message.params.get("tag")
    request = RequestInFlight(conn, message.id, tag if isinstance(tag, (int, str)) else None)
    try:
        _check_room(services, conn, message)
        params = validate(message.method, message.params)
        services.metrics.requests[message.method] += 1
        answer = HANDLERS[message.method](services, request, params)
    except Exception as exc:  # a bug in a handler must not end the connection's other requests
        request.respond(error=_logged(services, message.method, exc))
        return
    if isinstance(answer, Awaitable):
        task = asyncio.ensure_future(answer)
        request.begin(task.cancel)
        # In a callback, because a task that is cancelled before it runs cannot answer.
        task.add_done_callback(lambda done: _answer(services, request, message.method, done))
    elif answer is not LATER:
        request.respond(answer)


def _answer(
    services: Services, request: RequestInFlight, method: str, done: asyncio.Future[Any]
) -> None:
    if done.cancelled():
        request.respond(error=Cancelled("The request was cancelled."))
    elif (exc := done.exception()) is not None:
        request.respond(error=_logged(services, method, exc))
    elif (result := done.result()) is not LATER:
        request.respond(result)


def _logged(services: Services, method: str, exc: BaseException) -> MlxdError:
    error = as_error(exc)
    if error is not exc:
        event = "internal error" if error.code == "internal" else "resources exhausted"
        services.log(event, level="error", method=method, error=error_summary(exc))
    return error


def _check_room(services: Services, conn: Connection, message: Request) -> None:
    if message.id in conn.in_flight:
        raise InvalidRequest(f"The id {message.id!r} belongs to a request that is in flight.")
    limit = services.config.max_requests_per_connection
    if message.method in AT_ONCE:
        return
    if len(conn.in_flight) >= limit:
        raise Overloaded(
            f"{limit} requests are in flight on this connection.",
            hint="Wait for an answer, or open another connection.",
            data={"retry_after_s": 1.0, "max_requests_per_connection": limit},
        )


def _cancel(services: Services, request: RequestInFlight, params: Params) -> Answer:
    by_tag = params["tag"] is not None
    wanted = params["tag"] if by_tag else params["id"]
    return {"cancelled": request.conn.cancel(wanted, by_tag=by_tag)}


def _cancel_notified(conn: Connection, params: Params) -> None:
    """Cancel by notification. It has no answer, so invalid parameters are ignored."""
    for name in ("id", "tag"):
        wanted = params.get(name)
        if isinstance(wanted, (int, str)):
            conn.cancel(wanted, by_tag=name == "tag")


HANDLERS: dict[str, Handler] = {
    "cancel": _cancel,
    **daemon.HANDLERS,
    **completions.HANDLERS,
    **models.HANDLERS,
    **conversations.HANDLERS,
}
assert HANDLERS.keys() == METHODS.keys(), "a method without a handler, or the reverse"
