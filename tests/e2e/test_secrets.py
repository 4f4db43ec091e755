"""Prompts and answers are stored in the database only, never in logs, metrics or errors."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon.stderr import error_summary
from support import needs
from support.daemon_process import Daemon, running_daemon, user

SECRET = "zanzibar"
DATABASE = "conversations.db"


@pytest.fixture(scope="module")
def used_daemon() -> Iterator[Daemon]:
    """A daemon that answered, refused, cancelled and lost requests containing a secret."""
    with running_daemon(MLXD_LOG_LEVEL="debug") as daemon:
        send_secrets(daemon)
        yield daemon


def send_secrets(daemon: Daemon) -> None:
    answer = daemon.ask("chat", messages=user(f"Repeat: {SECRET}"), temperature=0, scope="here",
                        conversation="new")  # fmt: skip
    assert SECRET in answer["choices"][0]["text"]
    refused: list[dict[str, object]] = [
        {"schema": {"type": SECRET}},
        {"regex": f"({SECRET}"},
        {"grammar": f"{SECRET}: %%"},
        {"tools": [{"type": "function", "function": {"name": SECRET, "parameters": 7}}]},
        {"template_kwargs": {"messages": SECRET}},
        {SECRET: SECRET},
        {"messages": user(f"{SECRET} " * 20_000)},
    ]
    for params in refused:
        daemon.ask("chat", **{"messages": user(SECRET), "max_tokens": 1, **params})
    daemon.ask("tokenize", text=SECRET)
    daemon.ask("fill", prefix=SECRET, suffix=SECRET, max_tokens=2)
    with daemon.peer() as peer:
        peer.raw(b'{"jsonrpc": "2.0", "id": 1, "method": "%s"' % SECRET.encode() + b"\n")
        peer.answer(None)
    with daemon.peer() as peer:
        running = peer.send("generate", prompt=SECRET, max_tokens=400, ignore_eos=True, stream=True)
        peer.wait_event("delta")
        os.kill(daemon.engine_pid(), signal.SIGABRT)
        assert peer.answer(running)["error"]["code"] == "engine_died"
    daemon.ask("unload")  # cached prompts are written to the disk


def files(daemon: Daemon) -> list[Path]:
    return [path for path in daemon.folder.rglob("*") if path.is_file() and not path.is_symlink()]


def test_only_the_database_contains_prompts_and_answers(used_daemon: Daemon) -> None:
    having = {path.name for path in files(used_daemon) if SECRET.encode() in path.read_bytes()}
    assert {name for name in having if not name.startswith(DATABASE)} == set()
    assert having  # the database contains it, so the scan works
    log = (used_daemon.folder / "log" / "mlxd.log").read_text()
    assert "engine died" in log
    assert '"outcome": "ok"' in log


def test_metrics_and_status_contain_no_prompts(used_daemon: Daemon) -> None:
    for method in ("metrics", "status", "ps"):
        assert SECRET not in str(used_daemon.ask(method))


def test_process_titles_contain_no_prompts(used_daemon: Daemon) -> None:
    needs.proc()
    with used_daemon.peer() as peer:
        running = peer.send("generate", prompt=SECRET, max_tokens=400, ignore_eos=True, stream=True)
        peer.wait_event("delta")
        for pid in processes(used_daemon):
            for name in ("cmdline", "comm", "environ"):
                assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        peer.notify("cancel", id=running)
        peer.answer(running)


def processes(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    return [daemon.process.pid, daemon.engine_pid()]


def test_core_dumps_are_disabled_in_daemon_and_engine(used_daemon: Daemon) -> None:
    needs.proc()
    for pid in processes(used_daemon):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = [line.split() for line in limits if line.startswith("Max core file size")]
        assert core[4] == "0"


def test_every_stored_file_and_folder_is_private(used_daemon: Daemon) -> None:
    places = [path for path in used_daemon.folder.rglob("*") if not path.is_symlink()]
    open_to_others = {
        str(path.relative_to(used_daemon.folder)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in places
        if path.stat().st_mode & 0o077
    }
    assert len(places) > 10
    assert open_to_others == {}


def test_the_log_contains_prompts_and_answers_if_log_text_is_on() -> None:
    with running_daemon(MLXD_LOG_TEXT="true") as daemon:
        answer = daemon.ask("chat", messages=user(f"Repeat: {SECRET}"), temperature=0)
        daemon.ask("fill", prefix=SECRET, suffix="", deadline_s=0.001)
        ok, late = [line for line in daemon.log_lines() if line["event"] == "request"]
    assert ok["messages"] == user(f"Repeat: {SECRET}")
    assert ok["answers"] == [answer["choices"][0]["text"]]
    assert late["prefix"] == SECRET


def test_an_error_outline_contains_no_message_text() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        f"{SECRET}\udc80".encode()
    said = error_summary(caught.value)
    assert said.startswith("UnicodeEncodeError in test_secrets.py:")
    assert SECRET not in said


@pytest.mark.parametrize("where", ["fail()", "threading.Thread(target=fail).start()"])
def test_an_uncaught_exception_prints_type_and_location_only(where: str) -> None:
    program = (
        "import threading\n"
        "from mlxd.daemon.stderr import hide_error_messages\n"
        "def fail():\n"
        f"    raise ValueError({SECRET!r})\n"
        "hide_error_messages()\n"
        f"{where}\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False
    )
    assert SECRET not in done.stderr
    assert "ValueError in <string>:4 fail" in done.stderr
