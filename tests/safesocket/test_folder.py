"""The folder of the socket: who creates it, and when it is refused."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from mlxd.protocol.errors import PermissionDenied
from mlxd.protocol.paths import Paths, resolve_paths
from mlxd.safesocket.folder import NoSocketFolder, prepare_folder, problem
from support.places import own_environ


def paths_in(tmp_path: Path, folder: Path) -> Paths:
    return replace(resolve_paths(own_environ(tmp_path)), socket=folder / "s")


@pytest.mark.parametrize("name", ["mlxd", "mlxd-1000", ".mlxd"])
def test_a_folder_named_after_mlxd_is_created_for_its_owner_only(tmp_path: Path, name: str) -> None:
    prepare_folder(paths_in(tmp_path, tmp_path / name))
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_the_state_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    state = tmp_path / "home" / "state" / "mine"
    prepare_folder(replace(paths_in(tmp_path, state), state_dir=state))
    assert state.is_dir()


@pytest.mark.parametrize("folder", ["nope", "nope/deeper"])
def test_a_missing_folder_of_another_name_is_not_created(tmp_path: Path, folder: str) -> None:
    with pytest.raises(NoSocketFolder, match="does not exist") as caught:
        prepare_folder(paths_in(tmp_path, tmp_path / folder))
    assert caught.value.hint == f"Create it: mkdir -m 700 {tmp_path / folder}"
    assert list(tmp_path.glob("nope")) == []


def test_the_parents_of_a_folder_that_somebody_chose_are_not_created(tmp_path: Path) -> None:
    with pytest.raises(NoSocketFolder, match="cannot be created") as caught:
        prepare_folder(paths_in(tmp_path, tmp_path / "nope" / "mlxd"))
    assert "MLXD_SOCKET" in caught.value.hint
    assert list(tmp_path.glob("nope")) == []


@pytest.mark.parametrize(("mode", "refused"), [(0o755, False), (0o770, True), (0o707, True)])
def test_a_folder_writable_by_others_is_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    tmp_path.chmod(mode)
    found = problem(tmp_path, os.geteuid())
    tmp_path.chmod(0o700)
    assert (found is not None) == refused


def test_a_folder_of_another_user_or_a_link_is_refused(tmp_path: Path) -> None:
    other = problem(tmp_path, os.geteuid() + 1)
    (tmp_path / "mlxd").symlink_to(tmp_path)
    assert other is not None
    with pytest.raises(PermissionDenied, match="not a folder but a link"):
        prepare_folder(paths_in(tmp_path, tmp_path / "mlxd"))


def test_chmod_is_suggested_only_for_mlxds_own_folder(tmp_path: Path) -> None:
    for name, advised in (("shared", "MLXD_SOCKET"), ("mlxd", "chmod 700")):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.raises(PermissionDenied, match="Others may write") as caught:
            prepare_folder(paths_in(tmp_path, folder))
        assert advised in caught.value.hint
        assert ("chmod" in caught.value.hint) == (name == "mlxd")


def test_mlxds_own_folder_is_closed_to_readers(tmp_path: Path) -> None:
    folder = tmp_path / "mlxd"
    folder.mkdir()
    folder.chmod(0o755)
    prepare_folder(paths_in(tmp_path, folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
