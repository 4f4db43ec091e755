"""Finding a request's model: other callers never wait for the disk, and files may be gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon, user
from support.model_folders import copy_of_pocket


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine() as running:
        yield running


def hanging_folder(folder: Path) -> Path:
    """Make a model folder whose config.json keeps who reads it waiting, as a lost disk does."""
    folder.mkdir()
    os.mkfifo(folder / "config.json")
    return folder


def reader_of(folder: Path) -> BinaryIO:
    """Wait for the reader of `hanging_folder`; closing the file lets it go on, and find nothing."""
    return (folder / "config.json").open("wb")


def test_a_disk_that_hangs_keeps_nobody_else_waiting(daemon: Daemon, tmp_path: Path) -> None:
    folder = hanging_folder(tmp_path / "lost")
    with daemon.peer() as stuck:
        asked = stuck.send("chat", messages=user("1 tokens"), model=str(folder))
        with reader_of(folder):
            assert daemon.ask("ping") == {"pong": True}
            assert "choices" in daemon.ask("chat", messages=user("2 tokens"))
        assert stuck.answer(asked)["error"]["code"] == "model_load_failed"


def test_a_request_can_be_cancelled_while_its_model_is_looked_for(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder = hanging_folder(tmp_path / "lost")
    with daemon.peer() as peer:
        asked = peer.send("chat", messages=user("1 tokens"), model=str(folder))
        with reader_of(folder):
            assert peer.call("cancel", id=asked) == {"cancelled": True}
            assert peer.answer(asked)["error"]["code"] == "cancelled"


def test_the_newest_of_a_key_wins_though_the_older_one_waits_for_the_disk(
    daemon: Daemon, tmp_path: Path
) -> None:
    folder = hanging_folder(tmp_path / "lost")
    daemon.ask("chat", messages=user("1 tokens"))  # the default model is known now
    with daemon.peer() as peer:
        older = peer.send("chat", messages=user("1 tokens"), model=str(folder), supersede="k")
        with reader_of(folder):
            newer = peer.send("chat", messages=user("endless"), supersede="k", stream=True)
            assert peer.call("ping") == {"pong": True}
        assert peer.answer(older)["error"]["code"] == "model_load_failed"
        peer.wait_event("delta")
        peer.notify("cancel", id=newer)
        assert peer.answer(newer)["error"]["code"] == "cancelled"


def test_what_is_pulled_or_deleted_counts_for_the_next_request(
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


def test_a_model_whose_folder_is_gone_can_be_unloaded(tmp_path: Path) -> None:
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
        }
        assert daemon.ask("ps") == {"models": []}
