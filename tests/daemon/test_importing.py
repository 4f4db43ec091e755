"""`models.import` links models of other tools, each once and under a unique name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.config import Config
from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.models.files import identity
from mlxd.daemon.models.importing import import_models, remove_link
from mlxd.protocol.errors import ModelLoadFailed, ModelNotFound
from support.model_folders import bare_model


class Machine:
    """A machine with mlxd's models folder and a home folder with other tools."""

    def __init__(self, folder: Path) -> None:
        self.own_dir = folder / "own"
        self.home = folder / "home"
        environ = {"HF_HUB_CACHE": str(folder / "hub")}
        self.catalog = Catalog(Config(), environ, own_dir=self.own_dir)

    def add(self, path: Path | None = None) -> dict[str, Any]:
        known = {identity(one.path): one.name for one in self.catalog.list()}
        return import_models(path, self.own_dir, known, self.home).to_map()

    def names(self, source: str) -> list[str]:
        return [one.name for one in self.catalog.list() if one.source == source]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def imported(report: dict[str, Any]) -> list[str]:
    return [one["name"] for one in report["imported"]]


def test_models_of_known_tools_are_linked_once(machine: Machine) -> None:
    theirs = bare_model(machine.home / ".lmstudio/models/acme/Small")
    bare_model(machine.home / ".omlx/models/Flat")
    assert imported(machine.add()) == ["acme/Small", "Flat"]
    assert machine.names("imported") == ["Flat", "acme/Small"]
    assert machine.catalog.resolve("small").path == identity(theirs)
    again = machine.add()
    assert imported(again) == []
    assert [one["name"] for one in again["known"]] == ["acme/Small", "Flat"]


def test_imported_models_of_the_same_name_get_different_names(
    machine: Machine, tmp_path: Path
) -> None:
    for volume in ("one", "two", "three"):
        bare_model(tmp_path / volume / "models" / "Small")
        machine.add(tmp_path / volume / "models" / "Small")
    assert machine.names("imported") == ["Small", "Small-2", "models/Small"]


def test_removing_an_import_removes_only_the_link(machine: Machine, tmp_path: Path) -> None:
    theirs = bare_model(tmp_path / "lm" / "acme" / "Small")
    machine.add(tmp_path / "lm")
    name, link = machine.catalog.removable("acme/Small")
    assert name == "acme/Small"
    remove_link(link)
    assert (theirs / "config.json").exists()
    assert list(machine.own_dir.iterdir()) == []
    assert imported(machine.add(tmp_path / "lm")) == ["acme/Small"]


def test_a_dangling_import_link_is_replaced(machine: Machine, tmp_path: Path) -> None:
    first = bare_model(tmp_path / "a" / "Small")
    machine.add(first)
    first.rename(tmp_path / "moved")
    assert imported(machine.add(bare_model(tmp_path / "b" / "Small"))) == ["Small"]


def test_incomplete_models_are_skipped_with_the_reason(machine: Machine, tmp_path: Path) -> None:
    bare_model(tmp_path / "lm" / "whole")
    bare_model(tmp_path / "lm" / "partly").joinpath("model.safetensors").unlink()
    report = machine.add(tmp_path / "lm")
    assert imported(report) == ["whole"]
    assert "no weights" in report["skipped"][0]["problem"]
    with pytest.raises(ModelLoadFailed, match="no weights"):
        machine.add(tmp_path / "lm" / "partly")


def test_importing_a_folder_without_models_is_an_error_with_a_hint(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ModelNotFound) as caught:
            machine.add(path)
        assert caught.value.hint
    assert machine.add() == {"imported": [], "known": [], "skipped": []}
