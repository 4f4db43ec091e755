"""The front over real sockets, with a fake engine process."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from mlxd.protocol.codec import Encoding
from support import needs
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon, user
from support.places import mlxd


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine() as running:
        yield running


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_stream_sends_events_and_then_the_complete_result(
    daemon: Daemon, encoding: Encoding
) -> None:
    with daemon.peer(encoding) as peer:
        result = peer.call("chat", messages=user("5 tokens"), stream=True)
        kinds = [event["type"] for event in peer.events]
        text = "".join(event["text"] for event in peer.events if event["type"] == "delta")
    assert kinds[0] == "queued"
    assert text == result["choices"][0]["text"] == "w0 w1 w2 w3 w4 "
    assert {event["id"] for event in peer.events} == {1}


def test_without_stream_only_the_response_is_sent(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        assert peer.call("chat", messages=user("3 tokens"))["usage"]["completion_tokens"] == 3
        assert peer.events == []


def test_a_tag_replaces_the_id_in_events(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        peer.call("chat", messages=user("2 tokens"), stream=True, tag="mine")
    assert {event["id"] for event in peer.events} == {"mine"}


def test_requests_of_one_connection_are_answered_in_any_order(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        slow = peer.send("chat", messages=user("endless"), stream=True)
        quick = peer.send("chat", messages=user("2 tokens"))
        assert peer.answer(quick)["usage"]["completion_tokens"] == 2
        peer.notify("cancel", id=slow)
        assert peer.answer(slow)["error"]["code"] == "cancelled"


@pytest.mark.parametrize("by", ["id", "tag"])
def test_cancel_stops_the_request_and_reports_its_usage(daemon: Daemon, by: str) -> None:
    with daemon.peer() as peer:
        running = peer.send("chat", messages=user("endless"), stream=True, tag="t")
        peer.wait_event("delta")
        wanted = {"id": running} if by == "id" else {"tag": "t"}
        peer.send("cancel", **wanted)
        error = peer.answer(running)["error"]
    assert error["code"] == "cancelled"
    assert error["data"]["usage"]["completion_tokens"] > 0
    daemon.wait_idle()


def test_cancelling_an_unknown_request_returns_false(daemon: Daemon) -> None:
    assert daemon.ask("cancel", id=99) == {"cancelled": False}


def test_closing_the_connection_cancels_its_requests(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        peer.send("chat", messages=user("endless"), stream=True)
        peer.wait_event("delta")
        assert daemon.ask("status")["requests"]["running"] == 1
    daemon.wait_idle()


def test_a_client_that_shut_down_its_writing_side_is_answered(daemon: Daemon) -> None:
    line = (
        b'{"id":1,"method":"chat","params":{"messages":[{"role":"user","content":"4 tokens"}]}}\n'
    )
    done = subprocess.run(
        ["nc", "-N", "-U", daemon.socket_path],
        input=line,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert b'"completion_tokens":4' in done.stdout


def test_requests_of_a_half_closed_client_are_cancelled_when_it_disconnects(daemon: Daemon) -> None:
    peer = daemon.peer()
    peer.send("chat", messages=user("endless"), stream=True)
    peer.wait_event("delta")
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_event("delta")
    peer.sock.close()
    daemon.wait_idle()


def test_a_slow_reader_gets_its_complete_answer_and_delays_no_other(daemon: Daemon) -> None:
    with daemon.peer() as slow, daemon.peer() as quick:
        big = slow.send("chat", messages=user("flood 2000"), stream=True)
        many = slow.send("chat", messages=user("3000 tokens"), stream=True)
        assert quick.call("chat", messages=user("3 tokens"))["usage"]["completion_tokens"] == 3
        slow.answer(many)
        text = "".join(e["text"] for e in slow.events if e["type"] == "delta" and e["id"] == many)
        whole = "".join(e["text"] for e in slow.events if e["type"] == "delta" and e["id"] == big)
    assert text == "".join(f"w{index} " for index in range(3000))
    assert len(whole) == 2000 * 1024


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x93\xc1\xc1", b"{nonsense}\n", b"\xff\xff", b"\x93\x05"],
)
def test_garbage_gets_an_error_and_closes_only_its_own_connection(
    daemon: Daemon, garbage: bytes
) -> None:
    with daemon.peer() as other, daemon.peer() as bad:
        running = other.send("chat", messages=user("endless"), stream=True)
        bad.raw(garbage + b"\x00" * 8)
        assert bad.answer(None)["error"]["code"] == "parse_error"
        with pytest.raises(EOFError):
            bad.message()
        other.wait_event("delta")
        other.notify("cancel", id=running)
        other.answer(running)


def test_a_malformed_request_gets_an_error_and_keeps_the_connection_open(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        peer.raw(msgpack.packb([0, 7, "ping", ["not a map"]]))
        assert peer.answer(7)["error"]["code"] == "invalid_request"
        assert peer.call("ping") == {"pong": True}


def test_unknown_notifications_are_ignored(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        peer.notify("nvim_error_event", anything=1)
        peer.raw(msgpack.packb([2, "nvim_error_event", [0, "text"]]))
        assert peer.call("ping") == {"pong": True}


@pytest.mark.parametrize(
    ("method", "params", "code", "word"),
    [
        ("chta", {}, "method_not_found", "chat"),
        ("chat", {"messages": user("x"), "temprature": 1}, "invalid_params", "temprature"),
        ("chat", {}, "invalid_params", "messages"),
        ("chat", {"messages": user("x"), "model": "pockte"}, "model_not_found", "pockte"),
        ("chat", {"messages": user("x"), "trust_remote_code": True}, "permission_denied", ""),
        ("chat", {"messages": user("x"), "conversation": "zzz"}, "invalid_params", "'zzz'"),
    ],
)
def test_errors_are_typed_and_end_with_the_next_step(
    daemon: Daemon, method: str, params: dict[str, Any], code: str, word: str
) -> None:
    error = daemon.ask(method, **params)["error"]
    assert error["code"] == code
    assert word in error["message"] + error["hint"]
    assert error["hint"]


def test_hello_returns_versions_methods_and_limits(daemon: Daemon) -> None:
    hello = daemon.ask("hello", client="test", version="1", protocol=1)
    assert hello["protocol"] == 1
    assert "chat" in hello["capabilities"]
    assert hello["limits"]["max_requests_per_connection"] == 64


def test_an_id_that_is_in_use_is_refused(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        first = peer.send("chat", messages=user("endless"), stream=True)
        peer.wait_event("delta")
        peer.raw(msgpack.packb([0, first, "ping", []]))
        assert peer.answer(first)["error"]["code"] == "invalid_request"


def test_a_newer_request_of_the_same_key_supersedes_the_older(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        old = peer.send("chat", messages=user("endless"), supersede="buffer 1", stream=True)
        peer.wait_event("delta")
        new = peer.send("chat", messages=user("2 tokens"), supersede="buffer 1")
        assert peer.answer(old)["error"]["code"] == "superseded"
        assert peer.answer(new)["usage"]["completion_tokens"] == 2


def test_a_deadline_ends_the_request(daemon: Daemon) -> None:
    error = daemon.ask("chat", messages=user("endless"), deadline_s=0.05)["error"]
    assert error["code"] == "deadline_exceeded"
    assert error["retryable"]


def test_requests_per_connection_are_limited(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        for _ in range(64):
            peer.send("chat", messages=user("endless"))
        error = peer.call("chat", messages=user("1 tokens"))["error"]
        assert error["code"] == "overloaded"
        assert error["data"]["retry_after_s"] > 0
    daemon.wait_idle()


def test_the_request_queue_is_limited() -> None:
    with daemon_with_fake_engine(MLXD_MAX_QUEUE="2") as daemon, daemon.peer() as peer:
        for _ in range(2):
            peer.send("chat", messages=user("endless"), stream=True)
        assert daemon.ask("chat", messages=user("1 tokens"))["error"]["code"] == "overloaded"


def test_metrics_are_prometheus_text_without_prompts(daemon: Daemon) -> None:
    daemon.ask("chat", messages=user("3 tokens"))
    text = daemon.ask("metrics")["text"]
    assert 'mlxd_requests_total{method="chat"}' in text
    assert "mlxd_time_to_first_token_seconds_bucket" in text
    assert "tokens" not in [line.split('"')[1] for line in text.splitlines() if '"' in line]


def test_the_log_has_a_line_per_request_and_no_text(daemon: Daemon) -> None:
    daemon.ask("chat", messages=user("2 tokens of a secret"), deadline_s=0.02)
    daemon.ask("chat", messages=user("2 tokens"))
    lines = [line for line in daemon.log_lines() if line["event"] == "request"]
    assert lines[-1]["outcome"] == "ok"
    assert "secret" not in (daemon.folder / "log" / "mlxd.log").read_text()
    assert (daemon.folder / "log" / "mlxd.log").stat().st_mode & 0o777 == 0o600


def test_an_idle_connection_needs_less_than_30_kib(daemon: Daemon) -> None:
    def resident_kib() -> int:
        assert daemon.process is not None
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    needs.proc()
    before = resident_kib()
    peers = [daemon.peer() for _ in range(300)]
    assert daemon.ask("status")["connections"] >= 300
    grown = resident_kib() - before
    for peer in peers:
        peer.sock.close()
    assert grown / 300 < 30, f"{grown / 300:.1f} KiB per idle connection"


# ---- with a daemon of their own


def test_the_socket_and_its_folder_are_private(daemon: Daemon) -> None:
    path = Path(daemon.socket_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_second_daemon_exits_and_names_the_first(daemon: Daemon) -> None:
    done = mlxd(daemon.environ, "run")
    assert done.returncode == 1
    assert daemon.process is not None
    assert str(daemon.process.pid) in done.stderr


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with running_daemon(tmp_path, MLXD_PRELOAD="false") as daemon:
        daemon.stop(signal.SIGKILL)
        assert Path(daemon.socket_path).exists()
    with running_daemon(tmp_path, MLXD_PRELOAD="false") as daemon:
        assert daemon.ask("ping") == {"pong": True}


def test_a_symlinked_socket_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    environ = {"MLXD_SOCKET": str(tmp_path / "link" / "s")}
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with running_daemon(MLXD_PRELOAD="false") as other:
        done = mlxd({**other.environ, **environ}, "run")
    assert done.returncode == 6
    assert "link" in done.stderr


def test_sigterm_lets_running_requests_finish_and_exits_0() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("200 tokens"), stream=True)
        peer.wait_event("delta")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert peer.answer(running)["usage"]["completion_tokens"] == 200
        assert daemon.process.wait(20) == 0
        assert not Path(daemon.socket_path).exists()


def test_shutdown_ends_requests_that_exceed_the_drain_time() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("endless"), stream=True)
        peer.wait_event("delta")
        assert daemon.ask("shutdown", drain_s=0.1)["stopping"]
        assert peer.answer(running)["error"]["code"] == "shutting_down"
        assert daemon.process is not None
        assert daemon.process.wait(20) == 0


def test_an_incomplete_message_closes_the_connection_after_the_timeout() -> None:
    with daemon_with_fake_engine(MLXD_MESSAGE_TIMEOUT_S="0.3") as daemon, daemon.peer() as peer:
        peer.raw(b"\x94\x00\x01\xa4pi")
        with pytest.raises((EOFError, ConnectionError)):
            peer.message()
        assert daemon.ask("ping") == {"pong": True}
