"""Handles one HTTP request: gate, routing, body, handler, errors."""

from __future__ import annotations

import secrets

from mlxd.http import gate as gates
from mlxd.http.daemon import Daemon
from mlxd.http.dialects import ROUTES, error_body_for
from mlxd.http.exchange import ClientGone, Exchange
from mlxd.http.gate import Gate
from mlxd.http.options import MAX_BODY_BYTES
from mlxd.http.problems import headers_of
from mlxd.http.routes import Call, ErrorBody, Router
from mlxd.protocol.errors import Internal, MlxdError


class App:
    """The requests of all connections."""

    def __init__(self, gate: Gate, daemon: Daemon, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._gate = gate
        self._daemon = daemon
        self._max_body_bytes = max_body_bytes
        self._router = Router(ROUTES)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request. Every error becomes an answer in the form of the dialect."""
        head = exchange.head
        exchange.add_headers({"x-request-id": f"req_{secrets.token_hex(12)}"})
        error_body = error_body_for(head.path, head.headers)
        try:
            if (refusal := self._gate.refusal(head.method, head.headers)) is not None:
                raise refusal
            exchange.add_headers(gates.cors_headers(head.headers))
            if gates.is_preflight(head.method, head.headers):
                await exchange.reply(204, b"", "text/plain", gates.preflight_headers(head.headers))
                return
            route, rest = self._router.find(head.method, head.path)
            body = await exchange.json(self._max_body_bytes) if route.reads_body else {}
            await route.handler(Call(exchange, self._daemon, body, rest))
        except ClientGone:
            raise
        except MlxdError as error:
            await _report(exchange, error_body, error)
        except Exception as exc:
            if exchange.started:
                raise
            bug = Internal("The HTTP bridge failed.", hint="Please report this.")
            await _report(exchange, error_body, bug)
            raise Reported from exc


class Reported(Exception):
    """A bug that the client was told of."""


async def _report(exchange: Exchange, error_body: ErrorBody, error: MlxdError) -> None:
    if exchange.started:
        raise error  # the connection is closed, so that the answer is not taken for whole
    status, body = error_body(error)
    await exchange.reply_json(status, body, headers_of(error))
