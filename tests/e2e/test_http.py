"""The HTTP bridge in front of the real daemon and the built-in model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from support import needs
from support.bridge import Bridge, has_ipv6, running_bridge, sse_data
from support.daemon_process import Daemon, daemon_with_fake_engine, fake_engine_settings, user
from support.places import mlxd, own_environ
from support.waiting import until

COUNT = {"model": "pocket", "messages": user("Count from 3 to 7."), "temperature": 0}
CHAT = "/v1/chat/completions"


def test_a_whole_answer_and_its_usage(bridge: Bridge) -> None:
    found = bridge.ask("POST", CHAT, COUNT)
    assert found.status == 200
    assert found.body["choices"][0]["message"]["content"] == "3, 4, 5, 6, 7"
    assert found.body["usage"]["completion_tokens"] > 0
    assert "x-mlxd-notes" not in found.headers


def test_a_streamed_answer_ends_with_its_marker(bridge: Bridge) -> None:
    found = bridge.ask("POST", CHAT, {**COUNT, "stream": True})
    assert found.headers["content-type"] == "text/event-stream"
    *chunks, last = found.events
    assert last == "[DONE]"
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks)
    assert text == "3, 4, 5, 6, 7"


def test_both_loopback_addresses_are_served(bridge: Bridge) -> None:
    assert bridge.ask("GET", "/health").body == {"status": "ok"}
    if has_ipv6():
        found = bridge.ask("GET", "/health", address="::1")
        assert found.status == 200


def test_a_foreign_host_and_a_foreign_page_are_refused(bridge: Bridge) -> None:
    for headers in ({"Host": "evil.com"}, {"Host": ""}, {"Origin": "http://evil.com"}):
        found = bridge.ask("POST", CHAT, COUNT, headers)
        assert (found.status, found.body["error"]["code"]) == (403, "forbidden")


def test_errors_before_the_first_token_have_a_real_status(bridge: Bridge) -> None:
    for change, status, code in (
        ({"model": "nope"}, 404, "model_not_found"),
        ({"temperature": -1}, 400, "invalid_params"),
        ({"messages": user("word " * 40_000)}, 400, "context_length_exceeded"),
        ({"response_format": {"type": "json_schema"}}, 400, "invalid_params"),
    ):
        for streamed in (False, True):
            found = bridge.ask("POST", CHAT, {**COUNT, **change, "stream": streamed})
            assert (found.status, found.body["error"]["code"]) == (status, code)


def test_bodies_that_are_no_json_objects_are_refused(bridge: Bridge) -> None:
    for data in (b"{", b"[]", b'{"a": NaN}', b"[" * 100_000, b"\xff"):
        connection = bridge.connection()
        connection.request("POST", CHAT, data)
        response = connection.getresponse()
        assert (response.status, json.load(response)["error"]["type"]) == (
            400,
            "invalid_request_error",
        )
        connection.close()


def test_unknown_paths_and_methods(bridge: Bridge) -> None:
    assert bridge.ask("GET", "/v1/nope").status == 404
    assert bridge.ask("DELETE", "/v1/models").status == 405
    assert bridge.ask("POST", "/v1/embeddings", {"input": "x"}).status == 501


def test_fields_with_odd_names_are_answered_and_noted(bridge: Bridge) -> None:
    odd = {" ": 1, "": 2, "a\x00b": 3, "\x1b[31m": 4, **{f"field{n}": n for n in range(2000)}}
    for streamed in (False, True):
        found = bridge.ask("POST", CHAT, {**COUNT, **odd, "stream": streamed})
        assert found.status == 200
        assert len(found.headers["x-mlxd-notes"]) < 3000


def test_a_file_for_a_path_that_mlxd_does_not_have_is_501(bridge: Bridge) -> None:
    connection = bridge.connection()
    connection.request("POST", "/api/blobs/sha256:00", bytes(range(256)) * 4)
    assert connection.getresponse().status == 501
    connection.close()


def test_fill_and_plain_completions(bridge: Bridge) -> None:
    fill = {"model": "pocket", "prompt": "def add(a, b):\n    return ", "suffix": "\n"}
    found = bridge.ask("POST", "/v1/completions", {**fill, "temperature": 0}).body
    assert found["choices"][0]["text"] == "a + b"
    several = {"model": "pocket", "prompt": ["Once", "The"], "max_tokens": 3}
    found = bridge.ask("POST", "/v1/completions", several).body
    assert [one["index"] for one in found["choices"]] == [0, 1]


def test_models_are_listed_and_shown(bridge: Bridge) -> None:
    listed = bridge.ask("GET", "/v1/models").body["data"]
    shown = bridge.ask("GET", "/v1/models/pocket").body
    assert shown in listed
    assert shown["context_length"] == 16384
    assert bridge.ask("GET", "/v1/models/a/b").status == 404


def test_paths_of_llama_cpp_and_lm_studio(bridge: Bridge) -> None:
    tokens = bridge.ask("POST", "/tokenize", {"content": "hello"}).body["tokens"]
    assert bridge.ask("POST", "/detokenize", {"tokens": tokens}).body == {"content": "hello"}
    found = bridge.ask("POST", "/tokenize", {"content": "hello", "with_pieces": True}).body
    assert "".join(one["piece"] for one in found["tokens"]) == "hello"
    prompt = bridge.ask("POST", "/apply-template", {"messages": user("hi")}).body["prompt"]
    assert "<|im_start|>" in prompt
    assert bridge.ask("GET", "/props").body["default_generation_settings"]["n_ctx"] == 16384
    fill = {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "temperature": 0}
    assert bridge.ask("POST", "/infill", fill).body["content"] == "a + b"
    assert "pocket" in [one["model"] for one in bridge.ask("GET", "/slots").body]
    shown = bridge.ask("GET", "/api/v0/models/pocket").body
    assert shown in bridge.ask("GET", "/api/v0/models").body["data"]
    assert "mlxd_" in bridge.ask("GET", "/metrics").data.decode()


def test_a_client_that_hangs_up_stops_the_work(bridge: Bridge, daemon: Daemon) -> None:
    for streamed in (True, False):
        connection = bridge.connection()
        endless = {**COUNT, "ignore_eos": True, "stream": streamed}
        connection.request("POST", CHAT, json.dumps(endless))
        until(lambda: daemon.running() == 1, "the request runs")
        connection.close()
        daemon.wait_idle()


def test_several_requests_use_one_connection(bridge: Bridge) -> None:
    connection = bridge.connection()
    for _ in range(3):
        connection.request("GET", "/v1/models")
        assert json.load(connection.getresponse())["object"] == "list"
    connection.close()


def test_turns_of_an_agent_compute_only_what_is_new(bridge: Bridge) -> None:
    rules = {"type": "text", "text": "Answer shortly. " + "Follow every rule of the house. " * 60}
    messages: list[dict[str, Any]] = []
    last_total = 0
    for turn in range(4):
        # As Claude Code sends it: the first line of the system prompt changes with every request.
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cch={turn:05};"}
        messages += user(f"Count from {turn} to {turn + 3}.")
        ask = {"model": "pocket", "system": [billing, rules], "messages": messages}
        found = bridge.ask("POST", "/v1/messages", {**ask, "max_tokens": 12, "temperature": 0}).body
        computed = found["usage"]["input_tokens"]
        total = computed + found["usage"]["cache_read_input_tokens"]
        if turn:
            assert computed <= total - last_total
        last_total = total
        messages.append({"role": "assistant", "content": found["content"]})


def test_no_conversation_is_stored(bridge: Bridge, daemon: Daemon) -> None:
    before = daemon.ask("conversations.list")
    bridge.ask("POST", CHAT, COUNT)
    assert daemon.ask("conversations.list") == before


# ---- with processes of their own


def test_a_failure_in_mid_stream_is_an_error_and_then_the_marker() -> None:
    with daemon_with_fake_engine() as daemon, running_bridge(daemon.environ) as running:
        connection = running.connection()
        connection.request("POST", CHAT, json.dumps({"messages": user("endless"), "stream": True}))
        response = connection.getresponse()
        assert response.status == 200
        assert b"data: " in response.readline()
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        *_, failure, last = sse_data(b"data: {}\n\n" + response.read().lstrip())
        connection.close()
    assert failure["error"]["code"] == "engine_died"
    assert last == "[DONE]"


def test_the_daemon_is_started_by_the_first_request() -> None:
    with tempfile.TemporaryDirectory(prefix="mlxd-") as folder:
        environ = {**own_environ(Path(folder)), **fake_engine_settings()}
        with running_bridge({**environ, "MLXD_AUTOSTART": "0"}) as running:
            found = running.ask("GET", "/health")
            assert (found.status, found.headers["retry-after"]) == (503, "1")
            assert found.body["error"]["code"] == "daemon_unreachable"
        try:
            with running_bridge(environ) as running:
                assert running.ask("GET", "/health").status == 200
        finally:
            mlxd(environ, "stop")


@needs.root_only
def test_another_user_of_the_machine_is_refused(bridge: Bridge) -> None:
    request = b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n"
    for uid, status in ((65534, b"403"), (os.geteuid(), b"200")):
        done = subprocess.run(
            ["nc", "-w", "20", "127.0.0.1", str(bridge.port)],
            input=request, capture_output=True, user=uid, timeout=60, check=False,
        )  # fmt: skip
        assert done.stdout.split()[1] == status, done


def test_a_key_is_required_if_asked_for(daemon: Daemon) -> None:
    key = mlxd(daemon.environ, "http", "--show-key").stdout.strip()
    assert len(key) > 40
    with running_bridge(daemon.environ, "--require-key") as running:
        refused = running.ask("GET", "/v1/models")
        assert (refused.status, refused.body["error"]["code"]) == (401, "invalid_api_key")
        assert running.ask("GET", "/v1/models", headers={"x-api-key": key}).status == 200


def test_network_addresses_need_a_confirmation(daemon: Daemon) -> None:
    done = mlxd(daemon.environ, "http", "--listen", "192.0.2.1")
    assert done.returncode == 2
    assert "--i-know" in done.stderr


def test_a_port_in_use_is_reported_with_the_next_step(bridge: Bridge, daemon: Daemon) -> None:
    done = mlxd(daemon.environ, "http", f"--port={bridge.port}")
    assert done.returncode == 1
    assert "--port N" in done.stderr


def test_it_stops_gracefully_and_removes_its_unix_socket(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with running_bridge(daemon.environ, f"--unix-socket={path}") as running:
        assert path.stat().st_mode & 0o777 == 0o600
        assert over_unix(path) == 200
        assert running.stop() == 0
    assert not path.exists()


def over_unix(path: Path) -> int:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/health")
    status = connection.getresponse().status
    connection.close()
    return status
