"""A real engine that is stuck is replaced, by what its steps normally take."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import needs
from support.daemon_process import Daemon, running_daemon, user
from support.model_folders import copy_of_pocket

# A model whose own code gets stuck, once, when a file asks for it.
STUCK = """
import ctypes, os, threading
from mlx_lm.models import qwen3
from mlx_lm.models.qwen3 import ModelArgs

WAYS = {{
    "holding the interpreter": lambda: ctypes.PyDLL(None).sleep(1000),
    "waiting": lambda: threading.Event().wait(),
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
WAYS = {
    "holding the interpreter": "",
    "waiting": "threads slept",
    "spinning": "in a step that takes",
}
"""What the reason says for each. It is never the longest silence, which is set to an hour."""
LONG_S = 300.0


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stuck") / "how"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, ask: Path) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "data" / "models" / "stuck"
    folder.parent.mkdir(parents=True)
    copy_of_pocket(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "stuck.py"}))
    (folder / "stuck.py").write_text(STUCK.format(ask=str(ask)))
    (home / "config").mkdir()
    settings = 'default_model = "stuck"\n[models.stuck]\ntrust_remote_code = true\n'
    (home / "config" / "config.toml").write_text(settings)
    with running_daemon(home, MLXD_ENGINE_PROGRESS_TIMEOUT_S="3600") as daemon:
        yield daemon


@pytest.mark.timeout(2 * LONG_S)
@needs.linux_only  # where the system says how much time a process had for itself
@pytest.mark.parametrize("how", WAYS)
def test_an_engine_that_is_stuck_in_a_step_is_replaced(own: Daemon, ask: Path, how: str):
    assert own.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    pid = own.engine_pid()
    ask.write_text(how)
    with own.peer() as first, own.peer() as second:
        for peer in (first, second):
            peer.sock.settimeout(LONG_S)
        stuck = first.send("chat", messages=user("hello again"), max_tokens=2)
        behind = second.send("chat", messages=user("hello"), max_tokens=2)
        assert first.answer(stuck)["choices"]
        assert second.answer(behind)["choices"]
    engine = own.ask("status")["engine"]
    assert engine["pid"] != pid
    assert WAYS[how] in engine["last_exit"]
    assert "so it was killed" in engine["last_exit"]


@needs.linux_only
def test_a_stopped_engine_is_replaced(own: Daemon):
    os.kill(own.engine_pid(), signal.SIGSTOP)
    assert own.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    reason = own.ask("status")["engine"]["last_exit"]
    assert "threads slept" in reason or "no answer from its link" in reason
