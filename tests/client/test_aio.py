"""The asyncio client against a daemon that fails at every point. Nothing hangs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mlxd.client import (
    AsyncClient,
    Cancelled,
    ConnectionClosed,
    DaemonUnreachable,
    Overloaded,
    RequestTimeout,
    Timeouts,
)
from support.faulty_daemon import FaultyDaemon, faulty_daemon

pytestmark = pytest.mark.timeout(30)
SHORT_S = 0.1
PONG = {"pong": True}


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine in debug mode, which reports coroutines that are never awaited."""
    asyncio.run(asyncio.wait_for(work, 20), debug=True)


async def wait_cancelled(daemon: FaultyDaemon) -> None:
    """Wait until the daemon has received a cancel, without blocking the event loop."""
    await asyncio.to_thread(daemon.wait_cancelled)


async def wait_requests(daemon: FaultyDaemon, count: int) -> None:
    await asyncio.to_thread(daemon.wait_requests, count)


# ---- the daemon disconnects


@pytest.mark.parametrize(
    "steps",
    [
        ["read", "close"],
        ["read", "half", "close"],
        ["read", "event", "close"],
        ["read", "event", "half", "close"],
        ["read", "garbage", "close"],
    ],
    ids=" ".join,
)
def test_a_disconnecting_daemon_ends_every_request_in_any_state(steps: list[str]) -> None:
    async def work(path: str) -> None:
        async with AsyncClient(path) as client:
            found = await asyncio.gather(
                client.request("chat"), client.stream("chat").result(), return_exceptions=True
            )
        assert all(isinstance(one, ConnectionClosed) for one in found)
        assert all(one.may_have_been_executed for one in found)  # type: ignore[union-attr]

    with faulty_daemon(["read", *steps]) as daemon:
        run(work(daemon.path))


def test_a_request_after_the_daemon_exited_raises_daemon_unreachable() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        client = await AsyncClient.connect(daemon.path)
        await asyncio.to_thread(daemon.join)
        with pytest.raises(DaemonUnreachable):
            await client.request("ping")
        with pytest.raises(DaemonUnreachable):
            await client.stream("ping").result()
        await client.aclose()

    with faulty_daemon(["close"]) as daemon:
        run(work(daemon))


def test_a_refused_connection_raises_the_daemons_error() -> None:
    async def work(path: str) -> None:
        async with AsyncClient(path) as client:
            with pytest.raises(Overloaded):
                await client.request("ping")

    with faulty_daemon(["refuse", "close"]) as daemon:
        run(work(daemon.path))


def test_connecting_without_a_daemon_raises_daemon_unreachable(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(DaemonUnreachable):
            await AsyncClient.connect(tmp_path / "s")
        with pytest.raises(DaemonUnreachable):
            await AsyncClient(tmp_path / "s").request("ping")

    run(work())


# ---- reconnecting


def test_an_unsent_request_on_a_closed_connection_is_sent_on_a_new_one() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            assert await client.request("ping") == PONG
            while not daemon.hung_up:
                await asyncio.sleep(0)
            assert await client.request("status") == PONG
            assert await client.stream("chat").result() == PONG
        assert daemon.requests == ["ping", "status", "chat"]

    with faulty_daemon(["read", "answer", "close"], ["serve"]) as daemon:
        run(work(daemon))


def test_concurrent_requests_share_the_new_connection() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            assert await client.request("ping") == PONG
            while not daemon.hung_up:
                await asyncio.sleep(0)
            assert await asyncio.gather(*(client.request("ping") for _ in range(20))) == [PONG] * 20

    with faulty_daemon(["read", "answer", "close"], ["serve"]) as daemon:
        run(work(daemon))


def test_a_request_that_may_have_been_read_is_not_resent() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            with pytest.raises(ConnectionClosed):
                await client.request("chat")
            assert await client.request("ping") == PONG
        assert daemon.requests == ["chat", "ping"]

    with faulty_daemon(["read", "close"], ["serve"]) as daemon:
        run(work(daemon))


def test_without_reconnect_a_lost_connection_stays_lost() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        client = await AsyncClient.connect(daemon.path, reconnect=False)
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                await client.request("ping")
        assert not caught.value.may_have_been_executed
        await client.aclose()

    with faulty_daemon(["read", "close"], ["serve"]) as daemon:
        run(work(daemon))


# ---- the client disconnects


def test_aclose_ends_waiting_requests() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        client = await AsyncClient.connect(daemon.path)
        stream = client.stream("chat")
        waiting = [
            asyncio.create_task(client.request("chat")),
            asyncio.create_task(stream.result()),
        ]
        await wait_requests(daemon, 2)
        await client.aclose()
        for task in waiting:
            with pytest.raises(ConnectionClosed, match="client was closed"):
                await task
        with pytest.raises(ConnectionClosed):
            await stream.result()
        with pytest.raises(ConnectionClosed) as caught:
            await client.request("ping")
        assert not caught.value.may_have_been_executed
        await client.aclose()

    with faulty_daemon(["read", "read", "wait"]) as daemon:
        run(work(daemon))


# ---- stopping a request

Leave = Callable[[AsyncClient, FaultyDaemon], Awaitable[None]]


async def leave_loop(client: AsyncClient, daemon: FaultyDaemon) -> None:
    async for _ in client.stream("chat"):
        break


async def leave_held_loop(client: AsyncClient, daemon: FaultyDaemon) -> None:
    stream = client.stream("chat")
    async for _ in stream:
        break
    await asyncio.sleep(0)
    with pytest.raises(Cancelled):
        await stream.result()


async def close_stream(client: AsyncClient, daemon: FaultyDaemon) -> None:
    stream = client.stream("chat")
    await anext(stream)
    await stream.aclose()
    with pytest.raises(Cancelled):
        await stream.result()


async def leave_with(client: AsyncClient, daemon: FaultyDaemon) -> None:
    async with client.stream("chat") as stream:
        await anext(stream)


async def drop_stream(client: AsyncClient, daemon: FaultyDaemon) -> None:
    stream = client.stream("chat")
    await anext(stream)
    del stream


async def leave_texts(client: AsyncClient, daemon: FaultyDaemon) -> None:
    async for _ in client.stream_chat("hi").texts():
        break


async def cancel_task(client: AsyncClient, daemon: FaultyDaemon) -> None:
    task = asyncio.create_task(client.request("chat"))
    await wait_requests(daemon, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_loop(client: AsyncClient, daemon: FaultyDaemon) -> None:
    async def loop() -> None:
        async for _ in client.stream("chat"):
            pass

    task = asyncio.create_task(loop())
    await wait_requests(daemon, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task


async def outer_timeout(client: AsyncClient, daemon: FaultyDaemon) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.request("chat")


@pytest.mark.parametrize(
    "leave",
    [
        leave_loop, leave_held_loop, close_stream, leave_with, drop_stream, leave_texts,
        cancel_task, cancel_loop, outer_timeout,
    ],
)  # fmt: skip
def test_leaving_a_request_cancels_it(leave: Leave) -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            await leave(client, daemon)
            await wait_cancelled(daemon)
            assert await client.request("ping") == PONG

    with faulty_daemon(["read", "event", "read", "answer", "wait"]) as daemon:
        run(work(daemon))


def test_cancelling_a_task_that_connects_leaves_the_client_usable(
    tmp_path: Path,
) -> None:
    async def work(path: str, listener: socket.socket) -> None:
        client = AsyncClient(path)
        task = asyncio.create_task(client.request("ping"))
        await asyncio.sleep(0)  # it tries to connect, and pauses because the queue is full
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        connection, _ = await asyncio.to_thread(listener.accept)
        connection.close()
        async with client:
            pass

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)  # fills the queue
        run(work(path, listener))


# ---- time limits


@pytest.mark.parametrize(
    ("timeout", "steps", "limit"),
    [
        (Timeouts(total_s=SHORT_S), ["read", "event", "wait"], "total_s"),
        (Timeouts(first_s=SHORT_S), ["read", "wait"], "first_s"),
        (Timeouts(idle_s=SHORT_S), ["read", "event", "wait"], "idle_s"),
        (SHORT_S, ["read", "wait"], "total_s"),
    ],
)
def test_a_timeout_ends_the_request_and_cancels_it(
    timeout: Any, steps: list[str], limit: str
) -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            with pytest.raises(RequestTimeout) as caught:
                await client.stream("chat", timeout=timeout).result()
            assert caught.value.data["limit"] == limit
            await wait_cancelled(daemon)

    with faulty_daemon(steps) as daemon:
        run(work(daemon))


def test_connecting_to_a_daemon_that_never_accepts_times_out(tmp_path: Path) -> None:
    async def work(path: str) -> None:
        with pytest.raises(RequestTimeout):
            await AsyncClient.connect(path, timeout=Timeouts(connect_s=SHORT_S))

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)  # fills the queue
        run(work(path))


def test_large_requests_are_written_while_answers_are_read() -> None:
    async def work(daemon: FaultyDaemon) -> None:
        async with AsyncClient(daemon.path) as client:
            large = [client.request("chat", text="x" * 4_000_000) for _ in range(2)]
            small = [client.request("ping") for _ in range(50)]
            assert await asyncio.gather(*large, *small) == [PONG] * 52

    with faulty_daemon(["serve"]) as daemon:
        run(work(daemon))


def test_using_a_client_in_another_event_loop_raises() -> None:
    with faulty_daemon(["serve"]) as daemon, asyncio.Runner() as first:
        client = first.run(AsyncClient.connect(daemon.path))

        async def work() -> None:
            with pytest.raises(RuntimeError, match="event loop"):
                await client.request("ping")

        with asyncio.Runner() as second:
            second.run(work())
        first.run(client.aclose())
