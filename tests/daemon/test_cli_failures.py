"""`mlxd` never prints a traceback: full or closed streams, invalid configurations, bad files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlxd.daemon import starter
from mlxd.daemon.cli import lifecycle
from mlxd.daemon.front.server import listener
from mlxd.protocol.errors import EXITS, MlxdError
from mlxd.protocol.paths import Paths
from support import needs
from support.places import MLXD, mlxd

PRINTING = (["--help"], ["--version"], ["status", "--json"], ["logs"], ["logs", "--json"])


def shell(
    script: str, environ: dict[str, str], words: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run `script`, in which "$@" is the program with `words`."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *MLXD, *words], env=environ, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def with_log(environ: dict[str, str], own_paths: Paths) -> dict[str, str]:
    own_paths.log_dir.mkdir()
    own_paths.log_file.write_text("one line\n")
    return environ


@needs.linux_only
@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_full_disk_behind_the_stdout_of_mlxd_is_an_error_with_a_hint(
    words: list[str], with_log: dict[str, str]
) -> None:
    done = shell('"$@" >/dev/full', with_log, words)
    assert done.returncode == 1
    assert done.stderr == (
        "mlxd: Cannot read or write: No space left on device.\n"
        "      Check the path, its permissions and the free space.\n"
    )


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_closed_stdout_is_a_usage_error_for_commands_with_output(
    words: list[str], with_log: dict[str, str]
) -> None:
    done = shell('"$@" >&-', with_log, words)
    assert done.returncode == 2
    assert done.stderr.startswith("mlxd: stdout is closed, so nothing can be printed.\n")


def test_commands_without_output_work_with_closed_streams(environ: dict[str, str]) -> None:
    assert shell('"$@" <&- >&- 2>&-', environ, ["run", "--check"]).returncode == 0
    assert shell('"$@" 2>/dev/full', environ, ["stop"]).returncode == 3
    assert shell('"$@" 2>&-', environ, ["status"]).returncode == 3


@pytest.mark.parametrize("words", [["--help"], ["logs"], ["logs", "--json"]], ids=" ".join)
def test_output_to_a_closed_pipe_exits_with_0(words: list[str], with_log: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*MLXD, *words], env=with_log, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("config", ["= =", "drain_s = []", b"\xff\xfe", None])
def test_an_invalid_configuration_never_causes_a_traceback(
    config: str | bytes | None, environ: dict[str, str], own_paths: Paths
) -> None:
    if config is None:
        own_paths.config_file.mkdir(parents=True)
    else:
        own_paths.config_dir.mkdir()
        own_paths.config_file.write_bytes(config if isinstance(config, bytes) else config.encode())
    for words, status in ((["restart"], 2), (["run", "--check"], 2), (["stop"], 3)):
        done = mlxd(environ, *words)
        assert done.returncode == status, (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Unexpected" not in done.stderr


def kinds(root: type[MlxdError]) -> set[type[MlxdError]]:
    return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))


def test_every_error_class_has_a_documented_exit_code() -> None:
    assert {lifecycle.StillRunning, listener.AlreadyRunning} <= kinds(MlxdError)
    for kind in kinds(MlxdError):
        assert kind.exit_code in EXITS, kind


@pytest.mark.parametrize(("status", "code"), [(2, 2), (5, 5), (77, 1), (139, 1), (-9, 1)])
def test_a_failed_start_has_a_documented_exit_code(status: int, code: int) -> None:
    assert starter.StartFailed("It broke.", status).exit_code == code


def test_a_folder_in_place_of_the_log_is_an_error(
    environ: dict[str, str], own_paths: Paths, tmp_path: Path
) -> None:
    own_paths.log_file.mkdir(parents=True)
    done = mlxd(environ, "logs")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mlxd: {own_paths.log_file}: Is a directory.\n      ")
