"""`models.import` links models of other tools, under names of their own, and never twice."""

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


class Place:
    """A machine: its own models folder and a home with other tools."""

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
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def imported(report: dict[str, Any]) -> list[str]:
    return [one["name"] for one in report["imported"]]


def test_models_of_known_tools_are_linked_and_only_once(place: Place) -> None:
    theirs = bare_model(place.home / ".lmstudio/models/acme/Small")
    bare_model(place.home / ".omlx/models/Flat")
    assert imported(place.add()) == ["acme/Small", "Flat"]
    assert place.names("imported") == ["Flat", "acme/Small"]
    assert place.catalog.resolve("small").path == identity(theirs)
    again = place.add()
    assert imported(again) == []
    assert [one["name"] for one in again["known"]] == ["acme/Small", "Flat"]


def test_names_do_not_clash(place: Place, tmp_path: Path) -> None:
    for volume in ("one", "two", "three"):
        bare_model(tmp_path / volume / "models" / "Small")
        place.add(tmp_path / volume / "models" / "Small")
    assert place.names("imported") == ["Small", "Small-2", "models/Small"]


def test_removing_an_import_leaves_the_files(place: Place, tmp_path: Path) -> None:
    theirs = bare_model(tmp_path / "lm" / "acme" / "Small")
    place.add(tmp_path / "lm")
    name, link = place.catalog.removable("acme/Small")
    assert name == "acme/Small"
    remove_link(link)
    assert (theirs / "config.json").exists()
    assert list(place.own_dir.iterdir()) == []
    assert imported(place.add(tmp_path / "lm")) == ["acme/Small"]


def test_a_link_whose_model_is_gone_is_replaced(place: Place, tmp_path: Path) -> None:
    first = bare_model(tmp_path / "a" / "Small")
    place.add(first)
    first.rename(tmp_path / "moved")
    assert imported(place.add(bare_model(tmp_path / "b" / "Small"))) == ["Small"]


def test_incomplete_models_are_skipped_with_their_problem(place: Place, tmp_path: Path) -> None:
    bare_model(tmp_path / "lm" / "whole")
    bare_model(tmp_path / "lm" / "partly").joinpath("model.safetensors").unlink()
    report = place.add(tmp_path / "lm")
    assert imported(report) == ["whole"]
    assert "no weights" in report["skipped"][0]["problem"]
    with pytest.raises(ModelLoadFailed, match="no weights"):
        place.add(tmp_path / "lm" / "partly")


def test_a_folder_without_models_is_an_error_with_the_next_step(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ModelNotFound) as caught:
            place.add(path)
        assert caught.value.hint
    assert place.add() == {"imported": [], "known": [], "skipped": []}
