"""The engine survives any model folder and reports what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.damage import FATAL, HARMLESS
from support.engine_process import POCKET, EngineProcess, running_engine
from support.model_folders import copy_of_pocket


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    """One engine for all tests: it must survive every damaged folder."""
    with running_engine() as running:
        running.call("load", model={"name": "pocket", "path": str(POCKET)}, pin=True)
        yield running
        assert running.process.poll() is None
        assert running.ask("Count from 3 to 7.")["choices"][0]["text"] == "3, 4, 5, 6, 7"


@pytest.mark.parametrize("name", FATAL)
def test_a_damaged_model_folder_is_a_load_error_that_names_it(
    engine: EngineProcess, tmp_path: Path, name: str
) -> None:
    ref = copy_of_pocket(tmp_path / "damaged")
    FATAL[name](tmp_path / "damaged")
    error = engine.ask("hello", model=ref, max_tokens=4)["error"]
    assert error["code"] == "model_load_failed", error
    assert "damaged" in error["message"]
    assert error["hint"]
    assert engine.call("load", model=ref)["error"]["code"] == "model_load_failed"
    assert [one["model"] for one in engine.call("ps")["models"]] == ["pocket"]
    assert engine.call("stats")["models_loading"] == 0


@pytest.mark.parametrize("name", HARMLESS)
def test_damage_outside_the_model_files_does_not_prevent_a_load(
    engine: EngineProcess, tmp_path: Path, name: str
) -> None:
    ref = copy_of_pocket(tmp_path / "damaged")
    HARMLESS[name](tmp_path / "damaged")
    result = engine.ask("hello", model=ref, max_tokens=4, keep_alive_s=0)
    assert "error" not in result, result
    engine.call("unload", name="damaged")
