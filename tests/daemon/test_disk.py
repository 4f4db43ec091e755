"""A real daemon on a full and on a read-only file system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon import lock
from mlxd.protocol.paths import Paths, resolve_paths
from support.commands import runner
from support.daemon_process import Daemon, fake_engine_settings, running_daemon, user
from support.mounts import fill, read_only, small_disk
from support.places import mlxd


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def stored_turns(daemon: Daemon) -> int:
    found = daemon.ask("conversations.list")["conversations"]
    return sum(record["turns"] for record in found)


def test_a_full_disk_prevents_storage_but_no_answer(disk: Path) -> None:
    with running_daemon(disk, **fake_engine_settings()) as daemon:
        assert daemon.ask("chat", messages=user("1 tokens"), conversation="new")["conversation"]
        filler = fill(disk)
        answer = daemon.ask(
            "chat", messages=user("2 tokens " + "word " * 20_000), conversation="new"
        )
        assert answer["usage"]["completion_tokens"]
        assert "not stored" in answer["applied"]["notes"][0]
        assert "full" in answer["applied"]["notes"][0]
        assert "conversation" not in answer
        assert "full" in daemon.ask("status")["conversations"]["problem"]
        assert "full" in mlxd(daemon.environ, "status").stdout
        assert mlxd(daemon.environ, "logs").returncode == 0
        assert mlxd(daemon.environ, "doctor").returncode in (0, 1)
        filler.unlink()
        assert daemon.ask("chat", messages=user("1 tokens"), conversation="new")["conversation"]
        assert daemon.ask("status")["conversations"]["problem"] is None
        assert stored_turns(daemon) == 2
        assert daemon.log_lines()[-1]["event"] == "request", "the log continues"


def test_start_ask_restart_and_stop_work_on_a_full_disk(disk: Path) -> None:
    with running_daemon(disk, MLXD_PRELOAD="false") as daemon:
        daemon.stop()
        filler = fill(disk)
        assert filler.stat().st_size
        done = mlxd(daemon.environ, "start")
        assert done.returncode == 0, done.stderr
        paths = resolve_paths(daemon.environ)
        try:
            mlx = runner(daemon.environ)
            done = mlx("ask", "Count from 3 to 5.")
            assert (done.returncode, done.stdout) == (0, "3, 4, 5\n")
            assert "not stored" in done.stderr
            assert mlxd(daemon.environ, "restart").returncode == 0
            assert mlxd(daemon.environ, "status").returncode == 0
        finally:
            assert mlxd(daemon.environ, "stop", "--force").returncode == 0
        assert not lock.is_held(paths.lock_file)


def test_a_setting_that_does_not_fit_on_the_disk_leaves_the_file_unchanged(disk: Path) -> None:
    with running_daemon(disk, **fake_engine_settings()) as daemon:
        config = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "config.toml"
        config.parent.mkdir()
        config.write_text('[aliases]\nsmall = "pocket"\n')
        before = config.read_text()
        fill(disk)
        done = runner(daemon.environ)("models", "alias", "tiny", "pocket")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert "Free some space" in done.stderr, "the next step"
        assert "Traceback" not in done.stderr
        assert config.read_text() == before
        left = {path.name for path in config.parent.iterdir()}
        assert left == {"config.toml", ".config.toml.lock"}


def test_the_daemon_works_with_read_only_folders(tmp_path: Path) -> None:
    """State, cache, log and configuration are read-only; the runtime folder is not."""
    with running_daemon(tmp_path, MLXD_PRELOAD="false") as daemon:
        daemon.stop()
        kept = [tmp_path / name for name in ("state", "cache", "log", "config", "data")]
        for folder in kept:
            folder.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            for folder in kept:
                stack.enter_context(read_only(folder))
            done = mlxd(daemon.environ, "start")
            assert done.returncode == 0, done.stderr
            mlx = runner(daemon.environ)
            done = mlx("ask", "Count from 3 to 5.")
            assert (done.returncode, done.stdout) == (0, "3, 4, 5\n")
            assert "not stored" in done.stderr
            assert "cannot be used: Read-only file system" in mlx("log", "list").stderr
            assert "read" in mlxd(daemon.environ, "status").stdout
            assert mlxd(daemon.environ, "stop").returncode == 0


def test_a_socket_folder_that_cannot_be_created_is_reported(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    home = own_paths.socket.parent.parent
    with read_only(home):
        for command in (["start"], ["run"]):
            done = mlxd(environ, *command)
            assert done.returncode == 6
            assert "Read-only file system" in done.stderr
            assert "Traceback" not in done.stderr
