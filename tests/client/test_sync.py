"""The blocking client against a daemon that fails at every point. Nothing hangs."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxd.client import (
    Cancelled,
    Client,
    ConnectionClosed,
    DaemonUnreachable,
    Overloaded,
    RequestTimeout,
    Timeouts,
)
from support.faulty_daemon import faulty_daemon
from support.waiting import until

pytestmark = pytest.mark.timeout(30)
SHORT_S = 0.1


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run `work` in a thread; the list receives its result or exception."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as exc:
            found.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


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
def test_a_disconnecting_daemon_ends_the_request_in_any_state(steps: list[str]) -> None:
    with faulty_daemon(steps) as daemon, Client(daemon.path) as client:
        with pytest.raises(ConnectionClosed) as caught:
            client.request("ping")
        assert caught.value.may_have_been_executed
        assert daemon.requests == ["ping"]


def test_events_received_before_a_disconnect_can_be_read() -> None:
    with faulty_daemon(["read", "event", "event", "close"]) as daemon:
        stream = Client(daemon.path).stream("chat")
        assert [next(stream)["text"] for _ in range(2)] == ["on ", "on "]
        with pytest.raises(ConnectionClosed):
            next(stream)
        with pytest.raises(ConnectionClosed):
            _ = stream.result


def test_a_refused_connection_raises_the_daemons_error() -> None:
    with (
        faulty_daemon(["refuse", "close"]) as daemon,
        Client(daemon.path) as client,
        pytest.raises(Overloaded),
    ):
        client.request("ping")


def test_connecting_without_a_daemon_raises_daemon_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        Client(tmp_path / "s")
    assert "mlxd start" in caught.value.hint


# ---- reconnecting


def test_an_unsent_request_on_a_closed_connection_is_sent_on_a_new_one() -> None:
    with faulty_daemon(["read", "answer", "close"], ["serve"]) as daemon:
        with Client(daemon.path) as client:
            assert client.request("ping") == {"pong": True}
            until(lambda: daemon.hung_up, "the daemon closes the connection")
            assert client.request("status") == {"pong": True}
        assert daemon.requests == ["ping", "status"]


def test_a_request_that_may_have_been_read_is_not_resent() -> None:
    with faulty_daemon(["read", "close"], ["serve"]) as daemon, Client(daemon.path) as client:
        with pytest.raises(ConnectionClosed):
            client.request("chat")
        assert client.request("ping") == {"pong": True}
        assert daemon.requests == ["chat", "ping"]


def test_without_reconnect_a_lost_connection_stays_lost() -> None:
    with faulty_daemon(["read", "close"], ["serve"]) as daemon:
        client = Client(daemon.path, reconnect=False)
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as caught:
                client.request("ping")
        assert not caught.value.may_have_been_executed
        assert daemon.requests == ["ping"]
        client.close()


def test_reconnecting_stops_after_a_second_lost_connection() -> None:
    with faulty_daemon(["close"], ["close"]) as daemon:
        with Client(daemon.path) as client, pytest.raises(ConnectionClosed):
            client.request("ping")
        assert daemon.hung_up <= 2


# ---- the client disconnects


def test_close_ends_requests_of_other_threads() -> None:
    with faulty_daemon(["read", "read", "wait"]) as daemon:
        client = Client(daemon.path)
        waiting = [in_thread(lambda: client.request("chat")) for _ in range(2)]
        daemon.wait_requests(2)
        client.close()
        for thread, found in waiting:
            thread.join(10)
            assert isinstance(found[0], ConnectionClosed)
            assert "client was closed" in found[0].reason


def test_a_closed_client_refuses_requests() -> None:
    with faulty_daemon(["wait"]) as daemon:
        client = Client(daemon.path)
        client.close()
        client.close()
        with pytest.raises(ConnectionClosed) as caught:
            client.request("ping")
        assert not caught.value.may_have_been_executed


def test_the_result_of_a_stream_raises_after_close() -> None:
    with faulty_daemon(["read", "event", "wait"]) as daemon:
        client = Client(daemon.path)
        stream = client.stream("chat")
        assert next(stream)["text"] == "on "
        client.close()
        with pytest.raises(ConnectionClosed):
            _ = stream.result


# ---- stopping a request


def leave_loop(client: Client) -> None:
    for _ in client.stream("chat"):
        break


def leave_held_loop(client: Client) -> None:
    stream = client.stream("chat")
    for _ in stream:
        break
    with pytest.raises(Cancelled):
        _ = stream.result


def close_stream(client: Client) -> None:
    stream = client.stream("chat")
    next(stream)
    stream.close()
    with pytest.raises(Cancelled):
        _ = stream.result


def leave_with(client: Client) -> None:
    with client.stream("chat") as stream:
        next(stream)


def drop_stream(client: Client) -> None:
    stream = client.stream("chat")
    next(stream)
    del stream


def leave_texts(client: Client) -> None:
    for _ in client.stream_chat("hi").texts():
        break


def raise_in_loop(client: Client) -> None:
    def loop() -> None:
        for _ in client.stream("chat"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()


@pytest.mark.parametrize(
    "leave",
    [
        leave_loop, leave_held_loop, close_stream, leave_with, drop_stream, leave_texts,
        raise_in_loop,
    ],
)  # fmt: skip
def test_leaving_a_stream_cancels_its_request(leave: Callable[[Client], None]) -> None:
    steps = ["read", "event", "read", "answer", "wait"]
    with faulty_daemon(steps) as daemon, Client(daemon.path) as client:
        leave(client)
        daemon.wait_cancelled()
        assert client.request("ping") == {"pong": True}


def test_a_stream_dropped_while_the_lock_is_held_is_cancelled_afterwards() -> None:
    with faulty_daemon(["read", "event", "wait"]) as daemon, Client(daemon.path) as client:
        stream = client.stream("chat")
        next(stream)
        wire = stream._wire  # noqa: SLF001  # the lock of another thread, held on purpose
        with wire._held():  # noqa: SLF001
            del stream
            assert not daemon.cancelled
        daemon.wait_cancelled()


def test_reading_single_events_does_not_cancel_the_request() -> None:
    with faulty_daemon(["read", "event", "event", "answer", "wait"]) as daemon:
        with Client(daemon.path) as client:
            stream = client.stream("chat")
            assert next(stream)["text"] == next(stream)["text"] == "on "
            assert stream.result == {"pong": True}
            assert list(stream) == []
        assert not daemon.cancelled


# ---- time limits

LIMITS = [
    (Timeouts(total_s=SHORT_S), ["read", "event", "wait"], "total_s"),
    (Timeouts(first_s=SHORT_S), ["read", "wait"], "first_s"),
    (Timeouts(idle_s=SHORT_S), ["read", "event", "wait"], "idle_s"),
    (SHORT_S, ["read", "wait"], "total_s"),
]


@pytest.mark.parametrize(("timeout", "steps", "limit"), LIMITS)
@pytest.mark.parametrize("per_request", [False, True])
def test_a_timeout_ends_the_request_and_cancels_it(
    timeout: Any, steps: list[str], limit: str, per_request: bool
) -> None:
    own, request = ({}, {"timeout": timeout}) if per_request else ({"timeout": timeout}, {})
    with faulty_daemon(steps) as daemon, Client(daemon.path, **own) as client:
        with pytest.raises(RequestTimeout) as caught:
            _ = client.stream("chat", **request).result
        assert caught.value.data["limit"] == limit
        daemon.wait_cancelled()


def test_timeout_none_overrides_the_clients_timeout() -> None:
    steps = ["read", "read", "go", "answer", "wait"]
    with faulty_daemon(steps) as daemon, Client(daemon.path, timeout=0.0) as client:
        with pytest.raises(RequestTimeout):
            client.request("ping")
        thread, found = in_thread(lambda: client.request("ping", timeout=None))
        daemon.wait_requests(2)
        daemon.go()
        thread.join(10)
        assert found == [{"pong": True}]


def test_connecting_to_a_daemon_that_never_accepts_times_out(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)  # fills the queue
            with pytest.raises(RequestTimeout) as caught:
                Client(path, timeout=Timeouts(connect_s=SHORT_S))
    assert caught.value.data["limit"] == "connect_s"


def test_a_request_that_the_daemon_does_not_read_times_out() -> None:
    with faulty_daemon(["go", "wait"]) as daemon, Client(daemon.path) as client:
        with pytest.raises(RequestTimeout):
            client.request("chat", text="x" * 8_000_000, timeout=SHORT_S)
        daemon.go()


# ---- threads and processes


def test_threads_share_a_client() -> None:
    with faulty_daemon(["serve"]) as daemon, Client(daemon.path) as client:
        work = [in_thread(lambda: [client.request("ping") for _ in range(50)]) for _ in range(8)]
        for thread, found in work:
            thread.join(20)
            assert found == [[{"pong": True}] * 50]
        assert len(daemon.requests) == 400


def test_a_waiting_thread_does_not_block_other_threads() -> None:
    with faulty_daemon(["read", "read", "answer", "go", "wait"]) as daemon:
        client = Client(daemon.path)
        thread, found = in_thread(lambda: client.request("chat"))  # never answered
        daemon.wait_requests(1)
        assert client.request("ping") == {"pong": True}
        assert not found
        client.close()
        thread.join(10)
        assert isinstance(found[0], ConnectionClosed)


def test_a_reading_thread_that_times_out_hands_over_to_another() -> None:
    steps = ["read", "read", "go", "answer", "wait"]
    with faulty_daemon(steps) as daemon, Client(daemon.path) as client:
        first, gave_up = in_thread(lambda: client.request("chat", timeout=0.3))
        daemon.wait_requests(1)
        second, found = in_thread(lambda: client.request("ping"))
        first.join(10)
        assert isinstance(gave_up[0], RequestTimeout)
        daemon.go()
        second.join(10)
        assert found == [{"pong": True}]


def test_a_large_request_is_written_while_answers_are_read() -> None:
    with faulty_daemon(["serve"]) as daemon, Client(daemon.path) as client:
        small, found = in_thread(lambda: [client.request("ping") for _ in range(100)])
        assert client.request("chat", text="x" * 8_000_000) == {"pong": True}
        small.join(20)
        assert found == [[{"pong": True}] * 100]


def test_a_forked_child_does_not_use_the_parents_connection() -> None:
    with faulty_daemon(["read", "answer", "read", "answer", "wait"]) as daemon:
        script = f"""
import os, sys
from mlxd.client import Client, ConnectionClosed
client = Client({daemon.path!r})
assert client.request("ping") == {{"pong": True}}
stream = client.stream("chat")
child = os.fork()
if not child:
    try:
        stream.result
    except ConnectionClosed as error:
        assert "parent" in error.reason
    del stream
    client.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert stream.result == {{"pong": True}}
"""
        done = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, timeout=25, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not daemon.cancelled


def test_the_blocking_client_does_not_import_asyncio() -> None:
    script = "import sys; from mlxd.client import Client; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_importing_the_library_imports_no_client() -> None:
    script = "import sys; import mlxd.client; print('mlxd.client.sync' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_close_leaves_no_descriptor_open() -> None:
    with faulty_daemon(["serve"]) as daemon:
        client = Client(daemon.path)
        client.request("ping")
        number = client._wire._sock.fileno()  # type: ignore[union-attr]  # noqa: SLF001
        client.close()
        daemon.join()
        poll = select.poll()
        poll.register(number, select.POLLIN)
        assert poll.poll(0)[0][1] & select.POLLNVAL
