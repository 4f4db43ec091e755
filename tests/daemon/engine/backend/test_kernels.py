"""MLX compiles kernels into a private folder, which other users cannot write to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlxd.daemon.engine.backend.kernels import is_own, keep_kernels
from support.daemon_process import running_daemon, user
from support.waiting import until


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like `/tmp`, writable by everybody."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_a_world_writable_tmpdir_is_replaced_by_a_private_folder(
    tmp_path: Path, shared: Path
) -> None:
    environ = {"TMPDIR": str(shared)}
    assert keep_kernels(str(tmp_path / "own" / "kernels"), environ, "linux")
    assert environ["TMPDIR"] == str(tmp_path / "own" / "kernels")
    assert is_own(Path(environ["TMPDIR"]))


def test_a_private_tmpdir_is_kept(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    assert keep_kernels("/nowhere", environ, "linux")
    assert environ == {"TMPDIR": str(tmp_path)}


def test_tmpdir_is_unchanged_on_macos(shared: Path) -> None:
    environ = {"TMPDIR": str(shared)}
    assert keep_kernels(None, environ, "darwin")
    assert environ == {"TMPDIR": str(shared)}


def test_keep_kernels_returns_false_without_a_private_folder(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for place in (None, str(shared), str(tmp_path / "file"), str(tmp_path / "link")):
        environ: dict[str, str] = {}
        assert not keep_kernels(place, environ, "linux"), place
        assert environ == {}


def test_the_engine_compiles_into_its_private_cache_folder(shared: Path) -> None:
    with running_daemon(TMPDIR=str(shared)) as daemon:
        answer = daemon.ask("chat", messages=user("hello"), max_tokens=4)
        assert "error" not in answer, answer
        assert answer["usage"]["completion_tokens"] > 0
        own = daemon.folder / "cache" / "kernels"
        # Compiling takes long on a busy machine, so the folder given to the builder counts too.
        assert [*own.rglob("*.so")] or builders_of(daemon.engine_pid()) == [str(own)]
    assert not [*shared.iterdir()]


def builders_of(engine: int) -> list[str]:
    """Return TMPDIR of each kernel builder of an engine."""
    found = []
    for pid in Path(f"/proc/{engine}/task/{engine}/children").read_text().split():
        if b"rope_norm" in Path(f"/proc/{pid}/cmdline").read_bytes():
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found += [one[7:].decode() for one in environ if one.startswith(b"TMPDIR=")]
    return found


def test_a_cache_folder_deleted_under_a_running_engine_is_recreated(shared: Path) -> None:
    with running_daemon(TMPDIR=str(shared)) as daemon:
        assert "error" not in daemon.ask("load", model="pocket")
        shutil.rmtree(daemon.folder / "cache")
        answer = daemon.ask("chat", messages=user("hello"), max_tokens=4)
        assert "error" not in answer, answer
        until(lambda: is_own(daemon.folder / "cache" / "kernels"), "the folder is created again")
    assert not [*shared.iterdir()]


def test_without_a_private_folder_the_engine_answers_without_compiling(
    tmp_path: Path, shared: Path
) -> None:
    (tmp_path / "cache").touch()  # no folder can be created there
    blocked = {"TMPDIR": str(shared), "MLXD_CACHE_DIR": str(tmp_path / "cache")}
    with running_daemon(**blocked) as daemon:
        answer = daemon.ask("chat", messages=user("hello"), max_tokens=4)
        assert "error" not in answer, answer
        assert answer["usage"]["completion_tokens"] > 0
        assert "nothing compiled" in daemon.ask("status")["engine"]["blas"]
        assert "no private folder" in (daemon.folder / "log" / "engine.err").read_text()
    assert not [*shared.iterdir()]
