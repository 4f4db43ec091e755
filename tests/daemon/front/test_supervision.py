"""Requests when the engine crashes, hangs or exits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from support.daemon_process import daemon_with_fake_engine, user
from support.waiting import ended, until


def test_an_engine_crash_ends_requests_with_output_and_retries_the_rest(tmp_path: Path) -> None:
    marker = tmp_path / "crashed"
    # So long that only the crash can end the request.
    timeout = {"MLXD_ENGINE_PROGRESS_TIMEOUT_S": "3600"}
    script = f"crash-once {marker}"
    with daemon_with_fake_engine(script, **timeout) as daemon, daemon.peer() as peer:
        assert peer.call("chat", messages=user("3 tokens"))["usage"]["completion_tokens"] == 3
        running = peer.send("chat", messages=user("endless"), stream=True)
        peer.wait_event("delta")
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        error = peer.answer(running)["error"]
        assert error["code"] == "engine_died"
        assert "SIGKILL" in error["message"]
        assert peer.call("chat", messages=user("3 tokens"))["usage"]["completion_tokens"] == 3
        assert daemon.ask("status")["engine"]["restarts"] == 2


def test_an_engine_that_always_crashes_is_reported_with_the_reason() -> None:
    with daemon_with_fake_engine("crash-at-submit") as daemon:
        error = daemon.ask("chat", messages=user("3 tokens"))["error"]
        assert error["code"] == "engine_died"
        assert "SIGKILL" in daemon.ask("status")["engine"]["last_exit"]
        assert daemon.ask("ping") == {"pong": True}


def test_an_engine_that_cannot_start_is_reported() -> None:
    with daemon_with_fake_engine("exit-now") as daemon:
        error = daemon.ask("chat", messages=user("3 tokens"))["error"]
        assert error["code"] == "engine_died"
        assert "exit status 3" in error["message"]


def test_an_engine_that_makes_no_progress_is_replaced() -> None:
    with daemon_with_fake_engine("hang", MLXD_ENGINE_PROGRESS_TIMEOUT_S="1") as daemon:
        error = daemon.ask("chat", messages=user("3 tokens"))["error"]
        assert error["code"] == "engine_died"
        assert "no progress" in daemon.ask("status")["engine"]["last_exit"]


@pytest.mark.slow
def test_an_engine_that_is_slow_to_start_is_not_replaced() -> None:
    settings = {"MLXD_ENGINE_PROGRESS_TIMEOUT_S": "4"}
    with daemon_with_fake_engine("slow-start 6", **settings) as daemon:
        assert daemon.ask("chat", messages=user("1 tokens"))["choices"]
        assert daemon.ask("status")["engine"]["restarts"] == 0


@pytest.mark.slow
def test_an_engine_that_never_becomes_ready_is_replaced() -> None:
    settings = {"MLXD_ENGINE_PROGRESS_TIMEOUT_S": "1"}
    with daemon_with_fake_engine("slow-start 100", **settings) as daemon:
        error = daemon.ask("load")["error"]
        assert error["code"] == "engine_died"
        assert "not ready for" in error["message"]


@pytest.mark.slow
def test_a_long_prefill_counts_as_progress() -> None:
    with daemon_with_fake_engine(MLXD_ENGINE_PROGRESS_TIMEOUT_S="4") as daemon:
        began = time.monotonic()
        result = daemon.ask("chat", messages=user("prefill 6000"))
        assert time.monotonic() - began > 4  # at least a millisecond for each of 6000 tokens
        assert result["choices"][0]["finish_reason"] == "stop"
        assert daemon.ask("status")["engine"]["restarts"] == 0


def test_a_request_that_crashed_two_engines_is_not_retried() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        error = peer.call("chat", messages=user("poison"))["error"]
        assert error["code"] == "engine_died"
        assert "is probably the cause" in error["message"]
        assert peer.call("status")["engine"]["restarts"] == 2


def test_requests_sharing_an_engine_with_a_crashing_one_are_answered() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        daemon.ask("load")
        beside = [peer.send("chat", messages=user("prefill 1000")) for _ in range(3)]
        poison = [peer.send("chat", messages=user("poison")) for _ in range(2)]
        for request in poison:
            assert "is probably the cause" in peer.answer(request)["error"]["message"]
        for request in beside:
            assert peer.answer(request)["choices"]
        assert 3 <= peer.call("status")["engine"]["restarts"] <= 4


def test_a_call_of_a_disconnected_client_is_not_retried(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with daemon_with_fake_engine(f"never-load {calls}") as daemon:
        with daemon.peer() as peer:
            peer.send("load")
            until(calls.exists, "no call", 30)
            pid = peer.call("status")["engine"]["pid"]
        until(lambda: daemon.ask("status")["connections"] == 1, "the caller is still there", 30)
        os.kill(pid, signal.SIGKILL)
        assert daemon.ask("chat", messages=user("1 tokens"))["choices"]
        assert calls.read_text() == "load\n"


def test_metrics_omit_the_engines_numbers_if_it_dies(tmp_path: Path) -> None:
    with daemon_with_fake_engine(f"die-of-stats {tmp_path / 'calls'}") as daemon:
        daemon.ask("load")
        text = daemon.ask("metrics")["text"]
        assert "mlxd_engine_restarts_total" in text


def test_a_request_to_an_exiting_engine_is_served_by_the_next(
    tmp_path: Path,
) -> None:
    with daemon_with_fake_engine(f"say-bye {tmp_path / 'left'}") as daemon:
        result = daemon.ask("chat", messages=user("3 tokens"))
        assert result["usage"]["completion_tokens"] == 3
        assert daemon.ask("status")["engine"]["restarts"] == 0


def test_calls_to_a_dead_engine_are_retried() -> None:
    with daemon_with_fake_engine() as daemon:
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        assert daemon.ask("load")["model"] == "pocket"


@pytest.mark.parametrize("state", ["idle", "stuck", "stopped", "starting"])
def test_the_engine_ends_with_the_daemon(state: str) -> None:
    script = "slow-start 100" if state == "starting" else ""
    with daemon_with_fake_engine(script) as daemon, daemon.peer() as peer:
        peer.send("chat", messages=user("stuck" if state == "stuck" else "endless"), stream=True)
        until(lambda: daemon.ask("status")["engine"]["pid"] is not None, "no engine", 30)
        pid = daemon.ask("status")["engine"]["pid"]
        if state in ("idle", "stopped"):
            peer.wait_event("delta")
        if state == "stopped":
            os.kill(pid, signal.SIGSTOP)
        daemon.stop(signal.SIGKILL)
        until(lambda: ended(pid), "the engine outlived its daemon", 10)
