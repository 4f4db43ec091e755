"""`mlxd`, `mlxd start`, `stop` and `status` as commands, against a fake daemon process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mlxd.daemon import lock, starter
from mlxd.daemon.cli import COMMANDS, cli
from mlxd.daemon.cli.lifecycle import StillRunning, stop_daemon
from mlxd.daemon.cli.options import as_flags
from mlxd.daemon.cli.status import lines
from mlxd.daemon.cli.units import duration, size
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths
from support.places import FAKE_DAEMON, mlxd


def test_every_command_in_the_table_exists() -> None:
    context = cli.make_context("mlxd", [], resilient_parsing=True)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
    assert list(COMMANDS)[:3] == ["run", "start", "stop"]


def test_help_and_version_need_no_daemon(environ: dict[str, str]) -> None:
    assert mlxd(environ, "--version").stdout.startswith("mlxd ")
    said = mlxd(environ, "--help").stdout
    assert all(name in said for name in COMMANDS)


def test_an_unknown_command_is_a_usage_error(environ: dict[str, str]) -> None:
    done = mlxd(environ, "strat")
    assert done.returncode == 2
    assert "There is no command 'strat'. Did you mean start" in done.stderr
    assert "Did you mean" not in mlxd(environ, "xyzzy").stderr


def test_without_a_daemon_stop_and_status_exit_with_3(environ: dict[str, str]) -> None:
    for command in (["stop"], ["stop", "--force"], ["status"], ["status", "--json"]):
        done = mlxd(environ, *command)
        assert done.returncode == 3, command
    assert "mlxd start" in mlxd(environ, "status").stderr
    assert json.loads(mlxd(environ, "status", "--json").stdout)["state"] == "stopped"


def test_status_does_not_start_the_daemon(environ: dict[str, str], own_paths: Paths) -> None:
    mlxd(environ, "status")
    assert not own_paths.socket.parent.exists()


def test_status_shows_what_the_daemon_reports(environ: dict[str, str], own_paths: Paths) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    done = mlxd(environ, "status")
    assert done.returncode == 0
    assert "1 min 1 s" in done.stdout
    record = json.loads(mlxd(environ, "status", "--json").stdout)
    assert record["state"] == "ready"


def test_start_reports_that_the_daemon_is_already_running(
    environ: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    done = mlxd(environ, "start", "--max-queue", "5")
    assert done.returncode == 0
    assert "already running" in done.stderr
    assert "mlxd restart" in done.stderr


def test_stop_returns_once_the_daemon_has_exited(environ: dict[str, str], own_paths: Paths) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    done = mlxd(environ, "stop")
    assert (done.returncode, done.stdout) == (0, "")
    assert not lock.is_held(own_paths.lock_file)
    assert mlxd(environ, "stop").returncode == 3


def test_stop_works_with_a_damaged_configuration(environ: dict[str, str], own_paths: Paths) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    own_paths.config_dir.mkdir()
    own_paths.config_file.write_text("= =")
    assert mlxd(environ, "stop").returncode == 0


def test_a_daemon_that_does_not_stop_is_reported_and_force_kills_it(
    environ: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, {**environ, "FAKE_DAEMON": "deaf"})
    with pytest.raises(StillRunning) as caught:
        stop_daemon(own_paths, 0, force=False, margin_s=0.1)
    assert caught.value.exit_code == 7
    assert "--force" in caught.value.hint
    stop_daemon(own_paths, 0, force=True, margin_s=0.1)
    assert not lock.is_held(own_paths.lock_file)


def test_force_kills_a_daemon_whose_socket_is_gone(
    environ: dict[str, str], own_paths: Paths
) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    own_paths.socket.unlink()
    with pytest.raises(DaemonUnreachable):
        stop_daemon(own_paths, 0, force=False, margin_s=0.1)
    stop_daemon(own_paths, 0, force=True, margin_s=0.1)
    assert not lock.is_held(own_paths.lock_file)


def test_start_reports_a_damaged_configuration(environ: dict[str, str], own_paths: Paths) -> None:
    own_paths.config_dir.mkdir()
    own_paths.config_file.write_text("preload = maybe\n")
    done = mlxd(environ, "start")
    assert done.returncode == 2
    assert "line 1, column 11" in done.stderr


def test_a_socket_path_that_is_too_long_is_reported(environ: dict[str, str]) -> None:
    done = mlxd({**environ, "MLXD_SOCKET": "/tmp/" + "x" * 120}, "status")
    assert done.returncode == 6
    assert "MLXD_SOCKET" in done.stderr


def test_an_unusable_lock_path_is_reported_without_a_traceback(
    environ: dict[str, str], own_paths: Paths
) -> None:
    own_paths.socket.parent.mkdir()
    starter.start_lock(own_paths).mkdir()
    done = mlxd(environ, "start")
    assert done.returncode == 1
    assert "Is a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_daemon_starts_without_a_usable_log_folder(
    environ: dict[str, str], own_paths: Paths
) -> None:
    own_paths.log_dir.write_text("a file is in the way")
    with pytest.raises(starter.StartFailed, match="The model is broken"):
        starter.start(own_paths, FAKE_DAEMON, {**environ, "FAKE_DAEMON": "fail"})
    done = mlxd({**environ, "MLXD_PRELOAD": "off"}, "start")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1"])
def test_doctor_works_without_home_and_with_a_non_utf_8_locale(
    environ: dict[str, str], locale: str
) -> None:
    bare = {key: value for key, value in environ.items() if key != "HOME"}
    done = mlxd({**bare, "LC_ALL": locale, "PYTHONIOENCODING": "ascii"}, "doctor", "--all")
    assert "Traceback" not in done.stderr
    assert "packages" in done.stdout


def test_an_invalid_flag_value_is_reported_with_the_allowed_values(environ: dict[str, str]) -> None:
    done = mlxd(environ, "start", "--max-queue", "0")
    assert done.returncode == 2
    assert "must be an integer of at least 1" in done.stderr


def test_flags_are_passed_on_to_the_child_process() -> None:
    values = {
        "preload": False,
        "log_text": True,
        "max_queue": 3,
        "model_dirs": ("/a", "/b"),
        "drain_s": None,
    }
    assert as_flags(values) == [
        "--no-preload",
        "--log-text",
        "--max-queue=3",
        "--model-dirs=/a:/b",
    ]


def test_stop_and_status_import_neither_asyncio_nor_mlx(environ: dict[str, str]) -> None:
    code = """
import sys
sys.argv = ["mlxd", "status"]
from mlxd.daemon.cli import main
try:
    main()
except SystemExit:
    print(sorted({"asyncio", "mlx", "numpy", "rich"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_help_into_a_closed_pipe_prints_no_traceback(environ: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "mlxd.daemon.cli", "doctor", "--help"],
        env=environ,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "forever"),
        (0, "0 s"),
        (0.0042, "4.2 ms"),
        (0.2034, "203 ms"),
        (0.9999, "1 s"),
        (4.25, "4.25 s"),
        (59.99, "1 min"),
        (90, "1 min 30 s"),
        (3720, "1 h 2 min"),
        (2e5, "2 days 7 h"),
    ],
)
def test_durations_are_printed_in_readable_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_are_printed_in_readable_units() -> None:
    assert [size(n) for n in (3, 4_000, 5_600_000, 7e9)] == [
        "3 bytes",
        "4.0 kB",
        "5.6 MB",
        "7.0 GB",
    ]


def test_status_prints_every_field_of_the_record_except_empty_ones() -> None:
    record = {
        "state": "ready",
        "uptime_s": 3720,
        "engine": {"pid": 7, "memory_budget_bytes": 8e9, "device": None},
        "models": [{"model": "pocket", "bytes": 12e6, "idle_s": 4, "pinned": True}],
    }
    shown = [" ".join(line.split()) for line in lines(record)]
    assert shown == [
        "state ready",
        "uptime 1 h 2 min",
        "engine pid 7",
        "engine memory budget 8.0 GB",
        "model pocket, 12.0 MB, pinned",
    ]
