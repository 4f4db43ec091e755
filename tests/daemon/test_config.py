"""Settings: their sources, precedence and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxd.daemon.config import SETTINGS, TABLES, Config, ConfigError, load_config
from mlxd.daemon.config_doc import reference
from mlxd.protocol.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(
        socket=tmp_path / "s.sock",
        config_dir=tmp_path,
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        data_dir=tmp_path / "data",
        log_dir=tmp_path / "log",
    )


def write(paths: Paths, text: str) -> None:
    paths.config_file.write_text(text, "utf-8")


def failure(paths: Paths, text: str) -> ConfigError:
    write(paths, text)
    with pytest.raises(ConfigError) as caught:
        load_config(paths, {})
    assert caught.value.exit_code == 2
    return caught.value


def test_without_a_file_every_setting_has_its_default(paths: Paths) -> None:
    assert load_config(paths, {}) == Config()


def test_precedence_is_flag_then_variable_then_file_then_default(paths: Paths) -> None:
    write(paths, "max_queue = 10\nmax_depth = 20\nmax_connections = 30\n")
    environ = {"MLXD_MAX_DEPTH": "21", "MLXD_MAX_CONNECTIONS": "31"}
    config = load_config(paths, environ, {"max_connections": 32, "preload": None})
    assert (config.max_queue, config.max_depth, config.max_connections) == (10, 21, 32)
    assert config.preload is True


def test_models_aliases_and_environment_are_read(paths: Paths) -> None:
    write(
        paths,
        """
        [models."org/big"]
        trust_remote_code = true
        keep_alive_s = "forever"
        [models.mine]
        path = "models/mine"
        pin = true
        [aliases]
        b = "org/big"
        [environment]
        HF_HOME = "/data/hf"
        """,
    )
    config = load_config(paths, {})
    assert config.models["org/big"].trust_remote_code
    assert config.models["org/big"].keep_alive_s == -1
    assert config.models["mine"].path == str(paths.config_dir / "models/mine")
    assert config.aliases == {"b": "org/big"}
    assert config.process_environment({"HF_HOME": "/mine"}) == {"HF_HOME": "/mine"}
    assert config.process_environment({}) == {"HF_HOME": "/data/hf"}


def test_a_damaged_configuration_is_reported_with_line_and_column(paths: Paths) -> None:
    error = failure(paths, "preload = true\nmax_queue = = 3\n")
    assert (error.data["line"], error.data["column"]) == (2, 13)
    assert f"{paths.config_file}, line 2, column 13" in error.message


def test_a_truncated_configuration_is_reported_with_its_last_line(paths: Paths) -> None:
    error = failure(paths, 'preload = true\ndefault_model = "po')
    assert error.data["line"] == 2


def test_an_unknown_setting_is_reported_with_its_line_and_a_suggestion(paths: Paths) -> None:
    error = failure(paths, "preload = true\n\nmax_que = 3\n")
    assert error.data["line"] == 3
    assert "max_que is not a setting" in error.message
    assert error.hint == "Did you mean max_queue?"


def test_an_unknown_setting_of_a_model_is_reported_with_its_line(paths: Paths) -> None:
    error = failure(paths, 'pin = 1\n[models."a/b"]\nrevison = "x"\n'.replace("pin = 1\n", "\n"))
    assert error.data["line"] == 3
    assert error.hint == "Did you mean revision?"
    assert 'models."a/b".revison' in error.message


def test_an_unknown_table_gets_a_suggestion(paths: Paths) -> None:
    error = failure(paths, "\n[model.x]\npath = '/x'\n")
    assert error.data["line"] == 2
    assert error.hint == "Did you mean models?"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("preload = 1", "preload must be true or false, not 1"),
        ("max_queue = true", "max_queue must be an integer, not True"),
        ("max_queue = 0", "max_queue must be an integer of at least 1, not 0"),
        ("drain_s = 'soon'", "a number of seconds, or a duration such as 1h30m, not 'soon'"),
        ("drain_s = '-1m'", "drain_s must be a number of seconds"),
        ("keep_alive_s = -5", 'seconds, a duration such as 1h30m, or "forever", not -5'),
        ("drain_s = nan", "drain_s must be a number of seconds, or a duration such as 1h30m, not"),
        ("log_level = 'loud'", "log_level must be one of debug, info, warning, error, not 'loud'"),
        ("memory_budget_bytes = 'much'", 'as in 8000000000 or "8 GB", not'),
        ("default_model = ''", "default_model must be a non-empty string, not ''"),
        ("aliases = 3", "aliases must be a table: [aliases]"),
        ("models.x = 3", "models.x must be a table: [models.x]"),
        ("aliases.a = 3", "aliases.a must be a string"),
    ],
)
def test_an_invalid_value_is_reported_with_the_setting_and_the_allowed_values(
    paths: Paths, line: str, expected: str
) -> None:
    error = failure(paths, line)
    assert expected in error.message
    assert error.data["line"] == 1


def test_path_and_repo_of_a_model_are_mutually_exclusive(paths: Paths) -> None:
    error = failure(paths, "[models.x]\npath = '/x'\nrepo = 'a/b'\n")
    assert error.data["line"] == 3


def test_a_circular_alias_is_refused(paths: Paths) -> None:
    assert "leads back to itself" in failure(paths, "[aliases]\na = 'b'\nb = 'a'\n").message


def test_a_configuration_that_is_not_utf_8_is_refused(paths: Paths) -> None:
    paths.config_file.write_bytes(b"preload = \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(paths, {})


def test_a_folder_in_place_of_the_configuration_is_refused(paths: Paths) -> None:
    paths.config_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(paths, {})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("preload", "off", False),
        ("preload", "TRUE", True),
        ("keep_alive_s", "forever", -1.0),
        ("keep_alive_s", "1h30m", 5400.0),
        ("drain_s", "2m", 120.0),
        ("keep_alive_s", "90", 90.0),
        ("drain_s", "2.5", 2.5),
        ("memory_budget_bytes", "8GB", 8_000_000_000),
        ("memory_budget_bytes", "1.5 GiB", 1_610_612_736),
        ("model_dirs", "/a:/b", ("/a", "/b")),
    ],
)
def test_a_variable_is_parsed_by_the_type_of_its_setting(
    paths: Paths, name: str, text: str, value: object
) -> None:
    config = load_config(paths, {f"MLXD_{name.upper()}": text})
    assert getattr(config, name) == value


def test_an_invalid_variable_is_reported_by_name(paths: Paths) -> None:
    with pytest.raises(ConfigError, match="MLXD_MAX_QUEUE must be an integer, not 'many'"):
        load_config(paths, {"MLXD_MAX_QUEUE": "many"})


def test_every_default_is_valid() -> None:
    for entry in SETTINGS.values():
        if entry.default is not None:
            assert entry.check(entry.default) == entry.default


def test_every_field_of_config_is_a_setting_or_a_table() -> None:
    assert {*SETTINGS, *TABLES} == set(Config.__dataclass_fields__)


def test_the_configuration_page_is_generated_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference(), "python -m mlxd.daemon.config_doc > docs/…"
