"""Deadlines, superseding requests and a full queue, with the real engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.daemon_process import Daemon, running_daemon, user

ENDLESS = {"prompt": "Once", "max_tokens": 16_000, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon(MLXD_MAX_QUEUE="3") as running:
        running.ask("load")
        yield running


def test_a_request_ended_by_its_deadline_reports_its_usage(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        asked = peer.send("generate", **ENDLESS, deadline_s=1.5, stream=True)
        peer.wait_event("delta")
        error = peer.answer(asked)["error"]
    assert error["code"] == "deadline_exceeded"
    assert error["data"]["usage"]["completion_tokens"] > 0
    assert daemon.ask("status")["requests"] == {"running": 0, "queued": 0}


def test_a_superseding_request_reuses_the_computed_prefix(daemon: Daemon) -> None:
    text = "river stone " * 700
    with daemon.peer() as peer:
        older = peer.send("generate", prompt=text, supersede="buffer", max_tokens=1, stream=True)
        seen = peer.wait_event("prefill")
        assert seen["done"] < seen["total"]
        newer = peer.send("generate", prompt=text + "x", supersede="buffer", max_tokens=1)
        assert peer.answer(older)["error"]["code"] == "superseded"
        usage = peer.answer(newer)["usage"]
    assert seen["done"] - 1 <= usage["cached_tokens"] < usage["prompt_tokens"]


def test_a_full_queue_refuses_requests_with_a_retry_time(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        for _ in range(3):
            peer.send("generate", **ENDLESS, stream=True)
            peer.wait_event("queued")
        error = daemon.ask("chat", messages=user("hello"))["error"]
        assert error["code"] == "overloaded"
        assert error["retryable"]
        assert error["data"]["retry_after_s"] > 0
    daemon.wait_event("request", times=5 + 1)
    assert "choices" in daemon.ask("chat", messages=user("Count from 1 to 2."))
