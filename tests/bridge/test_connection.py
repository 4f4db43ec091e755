"""Connections in one process: limits, slow senders, keep-alive, and clients that leave."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from mlxd.http import connection, exchange
from mlxd.http.connection import HttpConnection
from mlxd.http.exchange import Budget, Exchange
from mlxd.http.options import Options
from mlxd.http.problems import BodyTooLarge, SlowSender, TooManyBodies
from mlxd.http.server import Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def echo(one: Exchange) -> None:
    """Answer with the body, or with the name of the error about it."""
    try:
        data = await one.body(1000)
    except (BodyTooLarge, SlowSender, TooManyBodies) as error:
        data = error.code.encode()
    await one.reply(200, data, "text/plain")


def run(
    test: Callable[[int, Server], Awaitable[None]],
    handle: Callable[[Exchange], Awaitable[None]] = echo,
    **options: int,
) -> None:
    async def main() -> None:
        server = Server(Options(**options), handle, checks_uid=False)  # type: ignore[arg-type]
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        await server.start([listener])
        async with asyncio.timeout(60):
            await test(listener.getsockname()[1], server)
            await server.stop()

    asyncio.run(main())


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split(b" ")[1]), await reader.readexactly(size)


def test_requests_on_one_connection_are_answered_one_after_the_other() -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi"
        writer.write(post + GET + post)  # pipelined
        assert [await answer(reader) for _ in range(3)] == [(200, b"hi"), (200, b""), (200, b"hi")]
        writer.close()

    run(test)


class Writes(asyncio.Transport):
    """Records what is written."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_small_answer_is_one_packet_that_is_sent_at_once() -> None:
    async def main() -> None:
        with socket.socket() as sock:
            transport = Writes(sock)
            one = HttpConnection(echo, lambda _: None, lambda _: None, Budget(1000))
            one.connection_made(transport)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            one.data_received(GET)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(transport.written) == 1
            one.connection_lost(None)

    asyncio.run(main())


def test_a_body_arrives_whole_however_it_is_cut() -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        )
        for byte in request:
            writer.write(bytes([byte]))
            await writer.drain()
        assert await answer(reader) == (200, b"hello world")
        writer.close()

    run(test)


def test_a_body_that_is_too_large_is_refused_and_the_connection_closed() -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
        writer.write(b"x" * 2000)
        assert await answer(reader) == (200, b"body_too_large")
        assert await reader.read() == b""
        writer.close()

    run(test)


def test_all_bodies_together_are_bounded() -> None:
    async def test(port: int, _: Server) -> None:
        full = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
        for _reader, writer in full:
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 800\r\n\r\n")
            writer.write(b"x" * 750)
        found = [asyncio.create_task(answer(reader)) for reader, _ in full]
        done, waiting = await asyncio.wait(found, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result() for one in done] == [(200, b"overloaded")]
        for _reader, writer in full:
            writer.write(b"y" * 50)
        results = await asyncio.gather(*waiting)
        assert all(one == (200, b"x" * 750 + b"y" * 50) for one in results)
        for _reader, writer in full:
            writer.close()

    run(test, max_body_bytes=800)


def test_a_byte_now_and_then_does_not_keep_a_head_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await answer(reader)
        monkeypatch.setattr(connection, "HEAD_S", 0.2)
        closed = asyncio.create_task(reader.read())
        # The second request on the connection, a byte now and then, without an end.
        writer.write(b"GET /")
        while not closed.done():
            writer.write(b"x")
            await asyncio.wait([closed], timeout=0.02)
        # The server closed with bytes unread, which may look like a reset.
        error = closed.exception()
        assert isinstance(error, ConnectionError) if error else closed.result() == b""
        writer.close()

    run(test)


def test_a_slow_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_PAUSE_S", 0.05)

    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx")
        assert await answer(reader) == (200, b"slow_sender")
        assert await reader.read() == b""
        writer.close()

    run(test)


def test_a_head_that_is_too_large_is_refused() -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000)
        assert (await answer(reader))[0] == 431
        writer.close()

    run(test)


def test_bytes_that_are_not_http_are_refused() -> None:
    async def test(port: int, _: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00 TLS to a server without it\r\n\r\n")
        assert (await answer(reader))[0] == 400
        writer.close()

    run(test)


def test_a_full_server_closes_the_connection_that_is_idle_longest() -> None:
    async def test(port: int, _: Server) -> None:
        first = await asyncio.open_connection("127.0.0.1", port)
        first[1].write(GET)
        await answer(first[0])
        second = await asyncio.open_connection("127.0.0.1", port)
        second[1].write(GET)
        await answer(second[0])
        third = await asyncio.open_connection("127.0.0.1", port)
        third[1].write(GET)
        assert await answer(third[0]) == (200, b"")
        assert await first[0].read() == b""
        for _reader, writer in (first, second, third):
            writer.close()

    run(test, max_connections=2)


def test_a_client_that_leaves_cancels_its_handler() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(_: Exchange) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def test(port: int, _: Server) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await began.wait()
        writer.close()
        await cancelled.wait()

    run(test, wait_for_ever)


def test_a_graceful_stop_lets_the_running_request_end() -> None:
    began, proceed = asyncio.Event(), asyncio.Event()

    async def slow(one: Exchange) -> None:
        began.set()
        await proceed.wait()
        await one.reply(200, b"done", "text/plain")

    async def test(port: int, server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await began.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        proceed.set()
        assert await answer(reader) == (200, b"done")
        writer.close()
        await stopping

    run(test, slow)
