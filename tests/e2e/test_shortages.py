"""A real daemon without memory, threads or descriptors: every caller gets an answer."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import needs
from support.daemon_process import Daemon, Peer, running_daemon, user
from support.limits import (
    lift,
    limit_descriptors,
    limit_memory,
    start_no_threads,
    unprivileged_daemon,
)
from support.model_folders import copy_of_pocket

MIB = 2**20
ANSWERED_WITHIN_S = 60.0
"""Time for an engine to die and the next one to start and load while all cores are busy."""
pytestmark = [needs.linux_only, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def own_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(with_second_model(tmp_path_factory.mktemp("home"))) as daemon:
        yield daemon


def with_second_model(home: Path) -> Path:
    folder = home / "data" / "models" / "other"
    folder.parent.mkdir(parents=True)
    copy_of_pocket(folder)
    return home


def prefill(words: int, room_bytes: int) -> Callable[[Peer, int], Any]:
    def act(peer: Peer, pid: int) -> Any:
        limit_memory(pid, room_bytes)
        return peer.call("generate", prompt="word " * words, max_tokens=2)

    return act


def decode(peer: Peer, pid: int) -> Any:
    running = peer.send("generate", prompt="Once", max_tokens=900, ignore_eos=True, stream=True)
    peer.wait_event("delta")
    limit_memory(pid, 0)
    return peer.answer(running)


def load(peer: Peer, pid: int) -> Any:
    limit_memory(pid, 2 * MIB)
    return peer.call("chat", model="other", messages=user("hello"), max_tokens=2)


def store_the_prompt(peer: Peer, pid: int) -> Any:
    long = user("word " * 700)
    running = peer.send("chat", messages=long, max_tokens=30, ignore_eos=True, stream=True)
    peer.wait_event("delta")
    limit_memory(pid, MIB)
    return peer.answer(running)


CASES = {
    "a short prompt": prefill(60, 0),
    "a prompt": prefill(300, 16 * MIB),
    "a long prompt": prefill(900, 4 * MIB),
    "decoding": decode,
    "a load": load,
    "storing a prompt": store_the_prompt,
}


@pytest.mark.parametrize("what", CASES)
def test_every_caller_is_answered_if_the_engine_runs_out_of_memory(
    own_daemon: Daemon, what: str
) -> None:
    assert own_daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    pid = own_daemon.engine_pid()
    with own_daemon.peer() as peer:
        asked_s = time.monotonic()
        assert_answered(CASES[what](peer, pid), what, asked_s)
        asked_s = time.monotonic()
        following = peer.call("chat", messages=user("hello"), max_tokens=2)
        assert following["choices"]
        assert time.monotonic() - asked_s < ANSWERED_WITHIN_S
    if own_daemon.engine_pid() == pid:
        lift(pid, resource.RLIMIT_AS)


def assert_answered(answer: Any, what: str, asked_s: float) -> None:
    """Check that the answer is a result or a documented error, and arrived in time."""
    seconds = time.monotonic() - asked_s
    code = answer["error"]["code"] if "error" in answer else "a result"
    print(f"{what}: {code} after {seconds:.1f} s")
    assert code in ("a result", "out_of_memory", "engine_died", "overloaded")
    assert seconds < ANSWERED_WITHIN_S


def test_an_engine_without_descriptors_reports_it_and_continues(own_daemon: Daemon) -> None:
    assert own_daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    own_daemon.ask("unload", model="other")
    pid = own_daemon.engine_pid()
    limit_descriptors(pid)
    error = own_daemon.ask("chat", model="other", messages=user("hello"), max_tokens=2)["error"]
    assert error["code"] == "out_of_memory", error
    assert "Too many open files" in error["message"]
    assert own_daemon.ask("chat", messages=user("word " * 500), max_tokens=2)["choices"]
    lift(pid, resource.RLIMIT_NOFILE)
    assert own_daemon.ask("chat", model="other", messages=user("hello"), max_tokens=2)["choices"]
    assert own_daemon.engine_pid() == pid


def test_a_front_without_descriptors_answers_and_logs_the_shortage(own_daemon: Daemon) -> None:
    assert own_daemon.process is not None
    assert own_daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    with own_daemon.peer() as peer:
        assert peer.call("ping")
        limit_descriptors(own_daemon.process.pid)
        error = peer.call("models.show", model=str(own_daemon.folder / "data" / "models" / "other"))
        assert error["error"]["code"] == "overloaded", error
        assert "open files" in error["error"]["message"]
        assert peer.call("chat", messages=user("hello"), max_tokens=2)["choices"]
        own_daemon.wait_event("resources exhausted")
        lift(own_daemon.process.pid, resource.RLIMIT_NOFILE)
        assert own_daemon.ask("models.list")["models"]


def test_a_daemon_that_cannot_start_threads_answers_and_logs_the_shortage() -> None:
    with unprivileged_daemon() as (daemon, peer):
        with_second_model(daemon.folder)
        assert daemon.process is not None
        assert peer.call("chat", messages=user("hello"), max_tokens=2)["choices"]
        engine_pid = peer.call("status")["engine"]["pid"]
        for pid in (daemon.process.pid, engine_pid):
            start_no_threads(pid)
        asked_s = time.monotonic()
        answer = peer.call("chat", messages=user("hello"), max_tokens=2, conversation="new")
        assert answer["choices"]
        assert "not stored" in answer["applied"]["notes"][0]
        assert peer.call("models.list")["models"]
        assert_answered(peer.call("load", model="other"), "a load without threads", asked_s)
        assert peer.call("chat", messages=user("word " * 500), max_tokens=2)["choices"]
        daemon.wait_event("conversation not stored")
        for pid in (daemon.process.pid, engine_pid):
            start_no_threads(pid, may=True)
        assert peer.call("load", model="other")["model"] == "other"


def test_engine_died_is_returned_if_the_process_limit_prevents_a_start() -> None:
    with unprivileged_daemon(MLXD_PRELOAD="false") as (daemon, peer):
        assert daemon.process is not None
        start_no_threads(daemon.process.pid)
        error = peer.call("chat", messages=user("hello"), max_tokens=2)["error"]
        assert error["code"] == "engine_died"
        assert "could not be started" in error["message"]
        start_no_threads(daemon.process.pid, may=True)
        assert peer.call("chat", messages=user("hello"), max_tokens=2)["choices"]
