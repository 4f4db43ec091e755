"""A real engine that is stuck in the middle of a step is replaced within seconds."""

from __future__ import annotations

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
SOON_S = 60.0
"""Two minutes before. It is some seconds now, with a start of the next engine behind them."""


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
    with running_daemon(home) as daemon:
        yield daemon


@needs.linux_only  # where the system says how much time a process had for itself
@pytest.mark.parametrize("how", ["holding the interpreter", "waiting", "spinning"])
def test_an_engine_that_is_stuck_in_a_step_is_replaced_within_seconds(
    own: Daemon, ask: Path, how: str
):
    assert own.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    pid = own.engine_pid()
    ask.write_text(how)
    began = time.monotonic()
    with own.peer() as first, own.peer() as second:
        stuck = first.send("chat", messages=user("hello again"), max_tokens=2)
        behind = second.send("chat", messages=user("hello"), max_tokens=2)
        assert first.answer(stuck)["choices"]
        assert second.answer(behind)["choices"]
    assert time.monotonic() - began < SOON_S
    engine = own.ask("status")["engine"]
    assert engine["pid"] != pid
    assert "so it was killed" in engine["last_exit"]


@needs.linux_only
def test_a_stopped_engine_is_replaced_within_seconds(own: Daemon):
    os.kill(own.engine_pid(), signal.SIGSTOP)
    began = time.monotonic()
    assert own.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
    assert time.monotonic() - began < SOON_S
