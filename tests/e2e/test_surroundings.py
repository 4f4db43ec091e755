"""Hostile environments: variables, files and limits inherited from a shell or a cron job."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlxd.daemon.isolation import ISOLATED, WITH_PYTHONPATH, flags
from support import needs
from support.commands import BIN
from support.mounts import read_only
from support.places import own_environ

HIJACKERS = ("http", "random", "types", "json", "click", "mlx", "sitecustomize", "usercustomize")
PYTHON_VARIABLES = {
    "PYTHONHOME": "/nowhere",
    "PYTHONSTARTUP": "/nowhere/startup.py",
    "PYTHONINSPECT": "1",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "ascii",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}
BAD_NUMBERS = {"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": "-1", "MLX_DISABLE_COMPILE": "perhaps"}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return a user's environment, in which Python finds mlxd without PYTHONPATH."""
    environ = own_environ(tmp_path)
    del environ["PYTHONPATH"]
    return environ


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A working folder with files that are named like modules."""
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in HIJACKERS:
        (folder / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    return folder


def run(script: str, environ: Mapping[str, str], folder: Path) -> str:
    """Run a line of shell; return its stdout."""
    done = subprocess.run(
        ["/bin/sh", "-c", script], env=environ, cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stop(environ: Mapping[str, str]) -> None:
    subprocess.run([f"{BIN}/mlxd", "stop"], env=environ, capture_output=True, check=False)


@pytest.mark.parametrize("start", ["umask 0777; ", f"{BIN}/mlxd start && "])
def test_a_hostile_shell_environment_does_not_change_an_answer(
    start: str, environ: dict[str, str], evil: Path
) -> None:
    (evil / "file").touch()
    hostile = {
        **environ,
        **PYTHON_VARIABLES,
        **BAD_NUMBERS,
        "PYTHONPATH": str(evil),
        "LD_PRELOAD": "/nowhere/libblas.so",
        "TMPDIR": str(evil / "file"),
        "LANG": "xx_YY.nonsense",
    }
    try:
        said = run(f'{start}{BIN}/mlx ask --temp 0 "Count from 3 to 7."', hostile, evil)
        assert said.strip() == "3, 4, 5, 6, 7"
    finally:
        stop(hostile)


OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0"


@needs.linux_only
@pytest.mark.parametrize(
    ("preloaded", "loaded"),
    [(OPENBLAS, "libopenblas"), ("/nowhere/libopenblas.so:/nowhere/libmkl_rt.so", "libblis")],
    ids=["a second BLAS", "missing ones"],
)
def test_a_preloaded_blas_is_used_if_it_exists(
    preloaded: str, loaded: str, environ: dict[str, str], tmp_path: Path
) -> None:
    hostile = {**environ, "LD_PRELOAD": preloaded}
    try:
        said = run(f'{BIN}/mlx ask --temp 0 "Count from 3 to 7."', hostile, tmp_path)
        assert said.strip() == "3, 4, 5, 6, 7"
        engine = json.loads(run(f"{BIN}/mlxd status --json", hostile, tmp_path))["engine"]
        mapped = Path(f"/proc/{engine['pid']}/maps").read_text()
        assert loaded in mapped
        assert engine["blas"] == loaded.removeprefix("lib")
    finally:
        stop(hostile)


@needs.linux_only
def test_a_read_only_home_prevents_storage_but_no_answer(
    environ: dict[str, str], tmp_path: Path
) -> None:
    # A short path: the socket below it must fit into sun_path.
    home, runtime = Path(tempfile.mkdtemp(prefix="mlxd-")), tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    places = ("MLXD_", "XDG_")
    plain = {key: value for key, value in environ.items() if not key.startswith(places)}
    plain |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    ask = f'{BIN}/mlx ask --temp 0 "Count from 3 to 7."'
    with read_only(home):
        try:
            assert run(ask, plain, tmp_path).strip() == "3, 4, 5, 6, 7"
            assert run(f"{BIN}/mlxd logs", plain, tmp_path) == ""
        finally:
            stop(plain)
        # Without a folder for the socket the daemon cannot start, and the message says why.
        del plain["XDG_RUNTIME_DIR"]
        done = subprocess.run(
            ["/bin/sh", "-c", ask], env=plain, capture_output=True, text=True, check=False
        )
    assert done.returncode in (1, 3)
    assert str(home) in done.stderr
    assert "Traceback" not in done.stderr
    assert "MLXD_SOCKET" in done.stderr


def test_the_daemon_starts_with_closed_streams_and_a_deleted_folder(
    environ: dict[str, str], evil: Path
) -> None:
    hostile = {**environ, "LC_ALL": "C", "TMPDIR": str(evil / "missing")}
    begin = f'cd "$0/gone" && rmdir "$0/gone" && {BIN}/mlxd run <&- >&- 2>&- &'
    (evil / "gone").mkdir()
    with subprocess.Popen(["/bin/sh", "-c", f"{begin} wait", str(evil)], env=hostile, cwd=evil):
        try:
            # `start` waits for a daemon that is starting, or starts one itself.
            said = run(f'{BIN}/mlxd start; {BIN}/mlx ask --temp 0 "Count from 3 to 7."',
                       hostile, evil)  # fmt: skip
            assert said.strip() == "3, 4, 5, 6, 7"
        finally:
            stop(hostile)


@pytest.mark.parametrize(
    ("place", "pythonpath", "expected"),
    [
        ("/venv/lib/python3/site-packages/mlxd", "", ISOLATED),
        ("/venv/lib/python3/site-packages/mlxd", "/home/ada/project", ISOLATED),
        ("/src/daemon/mlxd", "/home/ada:/src/daemon", WITH_PYTHONPATH),
    ],
)
def test_python_runs_isolated_unless_pythonpath_contains_mlxd(
    place: str, pythonpath: str, expected: tuple[str, ...]
) -> None:
    assert flags([Path(place)], {"PYTHONPATH": pythonpath}) == expected


def test_user_site_packages_stay_enabled_if_mlxd_is_installed_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("site.getusersitepackages", lambda: "/home/ada/.local/lib")
    assert "-s" not in flags([Path("/home/ada/.local/lib/mlxd")], os.environ | {"PYTHONPATH": ""})
