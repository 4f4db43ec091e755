"""Finding a request's model: no other request waits for the disk, and files may be deleted."""

from __future__ import annotations

import fcntl
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import needs
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon, user
from support.model_folders import copy_of_pocket

F_SETOWN_EX, F_OWNER_TID = 15, 0  # from <fcntl.h>; Python does not define them


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine() as running:
        yield running


def hanging_folder(folder: Path) -> Path:
    """Create a model folder for `blocked_reader`; its config.json is empty."""
    folder.mkdir()
    (folder / "config.json").touch()
    return folder


@contextmanager
def blocked_reader(folder: Path, ask: Callable[[], int]) -> Iterator[int]:
    """Call `ask` and block the process that opens the folder's config.json, like a disk that hangs.

    The kernel blocks the opening process until our lease ends with the `with` block. Linux only;
    a pipe would be refused before it is opened.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    try:
        with (folder / "config.json").open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            # To this thread only: in any other thread the signal would end the process.
            fcntl.fcntl(
                file, F_SETOWN_EX, struct.pack("ii", F_OWNER_TID, threading.get_native_id())
            )
            asked = ask()
            assert signal.sigtimedwait({signal.SIGIO}, 60), "the folder was not read"
            yield asked
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})


@needs.linux_only
def test_a_disk_that_hangs_delays_no_other_request(daemon: Daemon, tmp_path: Path) -> None:
    folder = hanging_folder(tmp_path / "lost")
    with daemon.peer() as stuck:
        request = {"messages": user("1 tokens"), "model": str(folder)}
        with blocked_reader(folder, lambda: stuck.send("chat", **request)) as asked:
            assert daemon.ask("ping") == {"pong": True}
            assert "choices" in daemon.ask("chat", messages=user("2 tokens"))
        assert stuck.answer(asked)["error"]["code"] == "model_load_failed"


@needs.linux_only
def test_a_request_can_be_cancelled_during_its_model_lookup(daemon: Daemon, tmp_path: Path) -> None:
    folder = hanging_folder(tmp_path / "lost")
    with daemon.peer() as peer:
        request = {"messages": user("1 tokens"), "model": str(folder)}
        with blocked_reader(folder, lambda: peer.send("chat", **request)) as asked:
            assert peer.call("cancel", id=asked) == {"cancelled": True}
            assert peer.answer(asked)["error"]["code"] == "cancelled"


@needs.linux_only
def test_the_newest_request_of_a_key_wins_while_an_older_one_is_looked_up(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder = hanging_folder(tmp_path / "lost")
    daemon.ask("chat", messages=user("1 tokens"))  # the default model is known now
    with daemon.peer() as peer:
        request = {"messages": user("1 tokens"), "model": str(folder), "supersede": "k"}
        with blocked_reader(folder, lambda: peer.send("chat", **request)) as older:
            newer = peer.send("chat", messages=user("endless"), supersede="k", stream=True)
            assert peer.call("ping") == {"pong": True}
        assert peer.answer(older)["error"]["code"] == "model_load_failed"
        peer.wait_event("delta")
        peer.notify("cancel", id=newer)
        assert peer.answer(newer)["error"]["code"] == "cancelled"


def test_changed_model_files_take_effect_at_the_next_request(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    copy_of_pocket(folder)
    assert "choices" in daemon.ask("chat", messages=user("1 tokens"), model=str(folder))
    (folder / "model.safetensors").rename(folder / "away")
    error = daemon.ask("chat", messages=user("1 tokens"), model=str(folder))["error"]
    assert error["code"] == "model_load_failed"
    (folder / "away").rename(folder / "model.safetensors")
    assert "choices" in daemon.ask("chat", messages=user("1 tokens"), model=str(folder))
    shutil.rmtree(folder)
    error = daemon.ask("chat", messages=user("1 tokens"), model=str(folder))["error"]
    assert error["code"] == "model_not_found"


def test_a_model_whose_folder_was_deleted_can_be_unloaded(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    copy_of_pocket(folder)
    with running_daemon(MLXD_PRELOAD="false") as daemon:
        daemon.ask("chat", messages=user("hello"), model=str(folder), max_tokens=1)
        shutil.rmtree(folder)
        assert daemon.ask("unload", model=str(tmp_path / "other"))["error"]["code"] == (
            "model_not_found"
        )
        assert daemon.ask("unload", model=str(folder)) == {
            "unloaded": True,
            "pending_requests": 0,
            "models": [str(folder)],
        }
        assert daemon.ask("ps")["models"] == []
