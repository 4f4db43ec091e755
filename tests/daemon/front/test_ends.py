"""The end of requests: cancel, deadline, engine crash, refusal and shutdown."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxd.protocol.codec import Encoding
from support.daemon_process import Daemon, daemon_with_fake_engine, user
from support.waiting import until

STUCK = user("stuck")


def wait_engine(daemon: Daemon, **wanted: Any) -> dict[str, Any]:
    """Wait until the engine in `status` has these values; return the whole entry."""
    engine: dict[str, Any] = {}

    def met() -> bool:
        engine.update(daemon.ask("status")["engine"])
        return all(engine.get(key) == value for key, value in wanted.items())

    until(met, f"the engine becomes {wanted}")
    return engine


def test_cancel_does_not_wait_for_a_stuck_engine() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        stuck = peer.send("chat", messages=STUCK, stream=True)
        peer.wait_event("queued")
        peer.notify("cancel", id=stuck)
        assert peer.answer(stuck)["error"]["code"] == "cancelled"
        assert peer.call("ping") == {"pong": True}


@pytest.mark.parametrize("script", ["", "halfway"])
def test_an_engine_that_never_confirms_a_cancel_is_replaced(script: str) -> None:
    timeout = {"MLXD_ENGINE_PROGRESS_TIMEOUT_S": "3"}
    with daemon_with_fake_engine(script, **timeout) as daemon, daemon.peer() as peer:
        pid = daemon.engine_pid()
        asked = user("endless") if script else STUCK
        stuck = peer.send("chat", messages=asked, stream=True, deadline_s=1)
        peer.wait_event("delta" if script else "queued")
        error = peer.answer(stuck)["error"]
        assert error["code"] == "deadline_exceeded"
        if script:
            assert error["data"]["usage"]["completion_tokens"] > 0, "reported early by the engine"
        assert wait_engine(daemon, restarts=1)["last_exit"].startswith("no progress")
        assert daemon.engine_pid() != pid


@pytest.mark.parametrize("code", ["cancelled", "superseded", "deadline_exceeded"])
def test_a_request_being_ended_keeps_its_error_code_if_the_engine_dies(code: str) -> None:
    with daemon_with_fake_engine("deaf") as daemon, daemon.peer() as peer:
        pid = daemon.engine_pid()
        limit = {"deadline_s": 1} if code == "deadline_exceeded" else {}
        running = peer.send("chat", messages=user("endless"), stream=True, supersede="k", **limit)
        peer.wait_event("delta")
        if code == "cancelled":
            assert peer.call("cancel", id=running) == {"cancelled": True}
        elif code == "superseded":
            peer.send("chat", messages=user("1 tokens"), supersede="k")
        peer.wait_event("prefill")
        os.kill(pid, signal.SIGKILL)
        assert peer.answer(running)["error"]["code"] == code


def test_callers_get_an_error_at_once_while_restarts_back_off() -> None:
    with daemon_with_fake_engine("exit-now") as daemon:
        for _ in range(2):
            assert daemon.ask("load")["error"]["code"] == "engine_died"
        refusal: dict[str, Any] = {}

        def refused() -> bool:
            """Ask while another caller waits for the next start; True if no engine was tried."""
            with daemon.peer() as peer:
                waiting = peer.send("load")
                deaths = daemon.ask("status")["engine"]["restarts"]
                refusal.update(daemon.ask("chat", messages=user("1 tokens"))["error"])
                peer.notify("cancel", id=waiting)
                assert peer.answer(waiting)["error"]["code"] in ("cancelled", "engine_died")
            return bool((refusal.get("data") or {}).get("restarts") == deaths)

        until(refused, "a refusal that waits for no engine")
        assert refusal["code"] == "engine_died"
        assert "the device is on fire" in refusal["message"]
        assert refusal["data"]["retry_after_s"] > 0
        died = [line for line in daemon.log_lines() if line["event"] == "engine died"]
        assert died[0]["stderr"] == ["the device is on fire"]


def test_a_call_to_the_engine_can_be_cancelled(tmp_path: Path) -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        waiting = peer.send("tokenize", text="never")
        assert peer.call("cancel", id=waiting) == {"cancelled": True}
        assert peer.answer(waiting)["error"]["code"] == "cancelled"


def test_a_full_connection_can_still_cancel() -> None:
    limit = {"MLXD_MAX_REQUESTS_PER_CONNECTION": "1"}
    with daemon_with_fake_engine(**limit) as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("endless"))
        assert peer.call("chat", messages=user("1 tokens"))["error"]["code"] == "overloaded"
        peer.send("cancel", id=running)
        assert peer.answer(running)["error"]["code"] == "cancelled"


@pytest.mark.parametrize("encoding", [*Encoding])
def test_a_connection_over_the_limit_is_refused_in_its_own_encoding(encoding: Encoding) -> None:
    with daemon_with_fake_engine(MLXD_MAX_CONNECTIONS="1") as daemon, daemon.peer() as first:
        assert first.call("ping") == {"pong": True}
        with daemon.peer(encoding) as second:
            assert second.call("ping")["error"]["code"] == "overloaded"
            with pytest.raises(EOFError):
                second.message()
        assert first.call("ping") == {"pong": True}


def test_the_daemon_stops_reading_from_a_client_that_never_reads() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as greedy:
        greedy.sock.setblocking(False)
        sent = 0
        line = b'{"jsonrpc":"2.0","id":1,"method":"hello"}\n' * 1000
        while select.select([], [greedy.sock], [], 1.0)[1] and sent < 200_000_000:
            sent += greedy.sock.send(line)
        assert sent < 50_000_000, "requests were read although no answer was"
        assert daemon.ask("ping") == {"pong": True}


def test_reasoning_tool_calls_and_text_arrive_in_order() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        peer.call("chat", messages=user("mixed"), stream=True)
        kinds = [(event["type"], event.get("channel")) for event in peer.events]
    assert kinds == [
        ("queued", None),
        ("delta", "reasoning"),
        ("tool_call", None),
        ("delta", "answer"),
    ]


def test_model_and_token_methods_are_forwarded_to_the_engine() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer(Encoding.JSON) as peer:
        assert peer.call("ps")["models"] == []
        assert peer.call("load", pin=True)["model"] == "pocket"
        assert peer.call("status")["models"][0]["pinned"]
        assert peer.call("status")["models"][0]["requests"] == 0, "what runs now, not at the load"
        assert peer.call("ps")["models"][0]["model"] == "pocket"
        assert peer.call("detokenize", **_tokens(peer.call("tokenize", text="hé"))) == {
            "text": "hé"
        }
        assert peer.call("unload")["unloaded"]
        assert "pocket" in [record["name"] for record in peer.call("models.list")["models"]]
        assert peer.call("models.show")["source"] == "builtin"


def _tokens(answer: dict[str, Any]) -> dict[str, Any]:
    return {"tokens": answer["tokens"]}


def test_sighup_reopens_the_log() -> None:
    with daemon_with_fake_engine() as daemon:
        log = daemon.folder / "log" / "mlxd.log"
        log.rename(log.with_name("moved"))
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.ask("chat", messages=user("1 tokens"))
        assert [line["event"] for line in daemon.log_lines()][-1] == "request"


def test_shutdown_waits_until_the_last_answers_are_sent() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("flood 3000"))
        until(daemon.running, "the request runs")
        assert daemon.ask("shutdown", drain_s=10)["stopping"]
        text = peer.answer(running)["choices"][0]["text"]
        assert len(text) == 3000 * 1024


def test_the_front_imports_no_libraries_of_the_engine() -> None:
    heavy = "{'mlx', 'mlx_lm', 'transformers', 'huggingface_hub', 'numpy', 'torch', 'tokenizers'}"
    program = f"import mlxd.daemon.front.app, sys; print(*{heavy} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environ, capture_output=True, check=True).stdout == b"\n"
