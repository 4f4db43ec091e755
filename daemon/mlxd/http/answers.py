"""Sends a completion request to the daemon and its answer to the HTTP client.

A dialect translates: it makes a `Plan` from the body of a request, and its `Writer` makes bytes
from the events of the daemon. Neither does any I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mlxd.client.aio import AsyncClient, AsyncStream
from mlxd.http.routes import Call
from mlxd.protocol.errors import MlxdError, OutOfMemory

SILENCE_S = 10.0
"""Longest time without a byte. Clients and proxies give up after 30 seconds or more."""
OPENING = frozenset({"prefill", "delta", "tool_call"})
"""Events after which the request cannot fail any more for reasons that the client can mend."""

DEFAULT_MAX_TOKENS = 32_768
"""Limit of an answer if the request has none. The daemon lowers it to the rest of the context."""
SMALL_MAX_TOKENS = 4096
"""The limit if the KV cache of the default does not fit into memory."""
LARGEST_MAX_TOKENS = 1 << 20

Event = dict[str, Any]
Result = dict[str, Any]


class Writer(Protocol):
    """Translates one streamed answer. Every method returns the bytes to send next."""

    content_type: str

    def event(self, event: Event) -> bytes:
        """Translate an event."""

    def alive(self) -> bytes:
        """Return a sign of life, in a form that clients ignore."""

    def end(self, result: Result) -> bytes:
        """Translate the result. Nothing follows."""

    def fail(self, error: MlxdError) -> bytes:
        """Report an error in the middle of the answer. Nothing follows."""


NOTES_MAX_CHARS = 2000
"""Clients limit the length of a header line, some to 8,192 bytes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the daemon is asked, and how its answer is translated.

    `writer` is None if the client wants the whole answer at once. `notes` lists fields of the
    request that have no effect.
    """

    method: str
    params: dict[str, Any]
    whole: Callable[[Result], dict[str, Any]]
    writer: Writer | None = None
    notes: tuple[str, ...] = ()
    has_own_limit: bool = field(default=False)
    """Whether the request has a limit on the tokens of the answer."""


def limited(params: dict[str, Any], max_tokens: Any) -> tuple[dict[str, Any], bool]:
    """Return the parameters with a limit on tokens, and whether the client gave it."""
    if max_tokens is None:
        return {**params, "max_tokens": DEFAULT_MAX_TOKENS}, False
    if isinstance(max_tokens, int) and max_tokens > LARGEST_MAX_TOKENS:
        max_tokens = LARGEST_MAX_TOKENS  # the daemon lowers it again, and says so
    return {**params, "max_tokens": max_tokens}, True


async def answer(call: Call, plan: Plan) -> None:
    """Run a plan and send the answer."""
    async with call.daemon.connect() as client:
        try:
            await _answer(client, call, plan)
        except OutOfMemory as error:
            if call.exchange.started or plan.has_own_limit or "need_bytes" not in error.data:
                raise
            smaller = {**plan.params, "max_tokens": SMALL_MAX_TOKENS}
            note = f"max_tokens lowered to {SMALL_MAX_TOKENS} by the free memory"
            await _answer(client, call, replace(plan, params=smaller, notes=(*plan.notes, note)))


async def _answer(client: AsyncClient, call: Call, plan: Plan) -> None:
    if plan.writer is None:
        result = await client.request(plan.method, plan.params)
        headers = note_headers([*plan.notes, *notes_of(result, plan)])
        await call.exchange.reply_json(200, plan.whole(result), headers)
    else:
        async with client.stream(plan.method, plan.params) as events:
            await _stream(call, plan, plan.writer, events)


async def _stream(
    call: Call, plan: Plan, writer: Writer, events: AsyncStream[Event, Result]
) -> None:
    exchange = call.exchange
    try:
        async for data in pieces(writer, events):
            if not exchange.started:
                headers = {"content-type": writer.content_type, "cache-control": "no-cache"}
                await exchange.start(200, {**headers, **note_headers(plan.notes)})
            await exchange.write(data)
    except MlxdError as error:
        if not exchange.started:
            raise
        await exchange.write(writer.fail(error))
    await exchange.finish()


async def pieces(writer: Writer, events: AsyncStream[Event, Result]) -> AsyncIterator[bytes]:
    """Yield the bytes of the answer. The first come when the request can hardly fail any more."""
    loop = asyncio.get_running_loop()
    alive_at_s = loop.time() + SILENCE_S
    opened = False
    held = b""
    while True:
        try:
            async with asyncio.timeout_at(alive_at_s):
                event = await anext(events)
        except TimeoutError:
            data, opened = writer.alive(), True
        except StopAsyncIteration:
            break
        else:
            data, opened = writer.event(event), opened or event.get("type") in OPENING
        held += data
        if held and opened:
            yield held
            held, alive_at_s = b"", loop.time() + SILENCE_S
    yield held + writer.end(await events.result())


def notes_of(result: Result, plan: Plan) -> list[str]:
    """Return the daemon's notes, without the one about the bridge's own limit."""
    notes = (result.get("applied") or {}).get("notes") or []
    if plan.has_own_limit:
        return [*notes]
    return [one for one in notes if not one.startswith("max_tokens lowered")]


def note_headers(notes: tuple[str, ...] | list[str]) -> Mapping[str, str]:
    """Return the header that lists fields without effect and other notes.

    Notes may quote any text of the caller. Characters that headers or terminals do not accept
    become question marks, and a long list is truncated.
    """
    text = "".join(char if " " <= char <= "~" else "?" for char in "; ".join(notes)).strip()
    if len(text) > NOTES_MAX_CHARS:
        text = f"{text[:NOTES_MAX_CHARS].rstrip()} ... ({len(notes)} notes)"
    return {"x-mlxd-notes": text} if text else {}
