"""A stuck engine is killed within seconds, and the next one answers."""

from __future__ import annotations

import calendar
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import needs
from support.daemon_process import Daemon, running_daemon, user
from support.model_folders import copy_of_pocket

# A model whose own code gets stuck once, in the way named by the trigger file.
STUCK = """
import ctypes, os, signal, threading
from mlx_lm.models import qwen3
from mlx_lm.models.qwen3 import ModelArgs

def stop_streams():
    # As after a failed allocation on an MLX thread: operations queued on its stream never run.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGUSR1, ctypes.cast(libc.pause, ctypes.c_void_p))
    ours = {{thread.native_id for thread in threading.enumerate()}}
    for name in os.listdir("/proc/self/task"):
        if int(name) not in ours:
            libc.tgkill(os.getpid(), int(name), signal.SIGUSR1)

WAYS = {{
    "holding the interpreter": lambda: ctypes.PyDLL(None).sleep(1000),
    "waiting": lambda: threading.Event().wait(),
    "waiting for a stream": stop_streams,
    "spinning": lambda: all(iter(lambda: True, False)),
}}

class Model(qwen3.Model):
    def __call__(self, *given, **named):
        if os.path.exists({ask!r}):
            with open({ask!r}) as file:
                how = file.read()
            os.unlink({ask!r})
            WAYS[how]()
        return super().__call__(*given, **named)
"""
SLEPT = "threads slept"
EXPECTED_REASONS = {
    # Threads that poll for the interpreter may use so little CPU that all of them count as asleep.
    "holding the interpreter": ("no answer to a ping", SLEPT),
    "waiting": (SLEPT,),
    "waiting for a stream": (SLEPT,),
    "spinning": ("in a step that was expected",),
}
"""The log gives one of these reasons. `engine_progress_timeout_s` is an hour in these tests."""
RECOGNISED_WITHIN_S = 60.0
"""Limit for a machine whose cores are all busy. An idle machine needs about 10 s."""
ANSWER_TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def trigger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stuck") / "how"


@pytest.fixture(scope="module")
def own_daemon(tmp_path_factory: pytest.TempPathFactory, trigger_file: Path) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "models" / "stuck"
    folder.parent.mkdir(parents=True)
    copy_of_pocket(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "stuck.py"}))
    (folder / "stuck.py").write_text(STUCK.format(ask=str(trigger_file)))
    (home / "config").mkdir()
    settings = 'default_model = "stuck"\n[models.stuck]\ntrust_remote_code = true\n'
    (home / "config" / "config.toml").write_text(settings)
    with running_daemon(home, MLXD_ENGINE_PROGRESS_TIMEOUT_S="3600") as daemon:
        yield daemon


@pytest.mark.timeout(2 * ANSWER_TIMEOUT_S)
@needs.linux_only  # the system reports the CPU times of threads
@pytest.mark.parametrize("how", EXPECTED_REASONS)
def test_an_engine_stuck_in_a_step_is_replaced(
    own_daemon: Daemon, trigger_file: Path, how: str
) -> None:
    assert own_daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    pid = own_daemon.engine_pid()
    trigger_file.write_text(how)
    asked_s = time.time()
    with own_daemon.peer() as first, own_daemon.peer() as second:
        for peer in (first, second):
            peer.sock.settimeout(ANSWER_TIMEOUT_S)
        stuck = first.send("chat", messages=user("hello again"), max_tokens=2)
        behind = second.send("chat", messages=user("hello"), max_tokens=2)
        assert first.answer(stuck)["choices"]
        assert second.answer(behind)["choices"]
    engine = own_daemon.ask("status")["engine"]
    assert engine["pid"] != pid
    assert any(reason in engine["last_exit"] for reason in EXPECTED_REASONS[how]), engine[
        "last_exit"
    ]
    assert "so it was killed" in engine["last_exit"]
    assert recognised_after_s(own_daemon, asked_s, how) < RECOGNISED_WITHIN_S


@pytest.mark.timeout(2 * ANSWER_TIMEOUT_S)
@needs.linux_only
def test_a_stopped_engine_is_replaced(own_daemon: Daemon) -> None:
    os.kill(own_daemon.engine_pid(), signal.SIGSTOP)
    asked_s = time.time()
    with own_daemon.peer() as peer:
        peer.sock.settimeout(ANSWER_TIMEOUT_S)
        assert peer.call("chat", messages=user("hello"), max_tokens=2)["choices"]
    reason = own_daemon.ask("status")["engine"]["last_exit"]
    assert "threads slept" in reason or "no answer to a ping" in reason
    assert recognised_after_s(own_daemon, asked_s, "stopped") < RECOGNISED_WITHIN_S


def recognised_after_s(daemon: Daemon, asked_s: float, how: str) -> float:
    """Return how long the engine was stuck before it was killed, in full seconds of the log."""
    died = [line["time"] for line in daemon.log_lines() if line["event"] == "engine died"]
    seconds = calendar.timegm(time.strptime(died[-1], "%Y-%m-%dT%H:%M:%SZ")) - asked_s
    print(f"{how}: recognised after {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    return seconds
