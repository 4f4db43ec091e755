"""Aliases and the default model: concurrent changes are all saved."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlxd.daemon.config_edit import edit_config
from support.daemon_process import Daemon, daemon_with_fake_engine

CALLERS = 12


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine() as running:
        yield running


def test_concurrent_alias_changes_are_all_saved_and_applied(daemon: Daemon) -> None:
    config = Path(daemon.environ["MLXD_CONFIG_DIR"], "config.toml")

    def give(number: int) -> None:
        # Half by the daemon, half by the code of other processes: both use the same lock.
        if number % 2:
            assert "error" not in daemon.ask("models.alias", alias=f"a{number}", model="pocket")
        else:
            edit_config(config, "aliases", {f"a{number}": "pocket"})

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(give, range(CALLERS)))
    assert "error" not in daemon.ask("models.alias", alias="last", model="pocket")
    expected = {"last", *(f"a{number}" for number in range(CALLERS))}
    assert tomllib.loads(config.read_text())["aliases"].keys() == expected
    assert daemon.ask("models.list")["aliases"].keys() == expected


def test_the_default_model_is_stored_by_its_full_name(daemon: Daemon) -> None:
    daemon.ask("models.alias", alias="short", model="pocket")
    assert daemon.ask("models.default", model="short")["default"] == "pocket"
    config = Path(daemon.environ["MLXD_CONFIG_DIR"], "config.toml")
    assert tomllib.loads(config.read_text())["default_model"] == "pocket"
    assert daemon.ask("models.default") == {"default": "pocket", "in_effect": "pocket"}
    assert daemon.ask("models.list")["default"] == "pocket"


def test_a_misspelled_name_gets_the_nearest_as_a_suggestion(daemon: Daemon) -> None:
    error = daemon.ask("models.default", model="pokcet")["error"]
    assert error["code"] == "model_not_found"
    assert error["data"]["nearest"][0] == "pocket"
    assert "Did you mean pocket" in error["hint"]
    daemon.ask("models.alias", alias="large", model="pocket")
    assert "large" in daemon.ask("models.alias", alias="lagre")["error"]["hint"]
