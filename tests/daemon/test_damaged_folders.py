"""The front lists or refuses damaged folders; none makes it hang or fail."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from mlxd.daemon.config import Config
from mlxd.daemon.models.catalog import BUILTIN_DIR, Catalog
from mlxd.protocol.errors import MlxdError, ModelLoadFailed, ModelNotFound
from support.damage import FATAL, HARMLESS

ENDED_S = 20.0


def catalog_of(folder: Path) -> Catalog:
    return Catalog(Config(model_dirs=(str(folder),)), {"HF_HUB_CACHE": str(folder / "hub")})


@pytest.mark.parametrize("name", [*FATAL, *HARMLESS])
def test_a_damaged_folder_is_listed_or_refused_without_hanging(tmp_path: Path, name: str) -> None:
    shutil.copytree(BUILTIN_DIR, tmp_path / "damaged")
    {**FATAL, **HARMLESS}[name](tmp_path / "damaged")
    catalog = catalog_of(tmp_path)
    records: list[object] = []
    # On a thread: opening a pipe would never return.
    thread = threading.Thread(
        target=lambda: records.extend(record.to_map() for record in catalog.list()), daemon=True
    )
    thread.start()
    thread.join(ENDED_S)
    assert not thread.is_alive(), "reading the folder hangs"
    json.dumps(records, allow_nan=False)
    assert records, "the built-in model is always listed"
    error = refusal(catalog, tmp_path / "damaged")
    if error is not None:
        assert name not in HARMLESS
        assert "damaged" in error.message
        assert error.hint


def refusal(catalog: Catalog, folder: Path) -> MlxdError | None:
    """Return why a folder is refused, or None if only loading it can tell."""
    try:
        catalog.resolve(str(folder))
    except (ModelLoadFailed, ModelNotFound) as error:
        return error
    return None


def test_a_folder_with_an_undecodable_name_does_not_break_the_list(tmp_path: Path) -> None:
    try:
        shutil.copytree(BUILTIN_DIR, tmp_path / "odd\udcff")
    except OSError:
        return  # macOS does not allow such names
    names = [record.name for record in catalog_of(tmp_path).list()]
    assert names == ["pocket"]
