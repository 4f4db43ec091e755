"""Editing config.toml: the rest of the file is kept, or nothing is written."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.daemon.config import ConfigError, read_config_file
from mlxd.daemon.config_edit import capture_environment, captured_environment, with_entries

CONFIG_FILE = Path("config.toml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine\npreload = false",
        "[environment]\nA = '1'\n\n[aliases]\nx = 'y'\n",
        "[aliases]\nx = 'y'\n",
        "[ environment ] # places\n",
        "[models.a]\nrepo = 'x/y' # [environment]\n",
        "environment.A = '1'\n[aliases]\n",
        'x = """\n[environment]\n"""\n[aliases]\n',
    ],
)
def test_an_edit_adds_entries_and_keeps_the_rest_of_the_file(text: str) -> None:
    edited = with_entries(text, "environment", {"HF_HOME": "/x"}, CONFIG_FILE)
    assert tomllib.loads(edited)["environment"]["HF_HOME"] == "/x"
    assert all(line in edited for line in text.splitlines())


def test_a_file_that_cannot_be_edited_safely_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be edited") as caught:
        with_entries("environment = 3\n", "environment", {"HF_HOME": "/x"}, CONFIG_FILE)
    assert 'HF_HOME = "/x"' in caught.value.hint


def test_an_edit_replaces_and_removes_entries_and_keeps_comments() -> None:
    text = "# mine\ndefault_model = 'a' # why\n\n[aliases]\n# short\nq = 'a/b'\nr = 'c'\n"
    edited = with_entries(text, "", {"default_model": "b"}, CONFIG_FILE)
    edited = with_entries(edited, "aliases", {"q": None, "with space": "x/y"}, CONFIG_FILE)
    assert tomllib.loads(edited) == {
        "default_model": "b", "aliases": {"r": "c", "with space": "x/y"}
    }  # fmt: skip
    assert "# mine" in edited
    assert "# why" in edited
    assert "# short" in edited


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_an_edit_preserves_every_string_value(value: str) -> None:
    edited = with_entries("preload = true\n", "environment", {"A": value}, CONFIG_FILE)
    assert tomllib.loads(edited) == {"preload": True, "environment": {"A": value}}


def test_install_captures_paths_and_proxies_but_no_tokens() -> None:
    environ = {"HF_HOME": "/x", "HTTPS_PROXY": "http://p", "HF_TOKEN": "secret", "HOME": "/h"}
    assert captured_environment(environ) == {"HF_HOME": "/x", "HTTPS_PROXY": "http://p"}


def test_a_moved_cache_folder_is_captured_as_hf_home() -> None:
    assert captured_environment({"XDG_CACHE_HOME": "/c"}) == {"HF_HOME": "/c/huggingface"}
    environ = {"XDG_CACHE_HOME": "/c", "HF_HUB_CACHE": "/x"}
    assert captured_environment(environ) == {"HF_HUB_CACHE": "/x"}


def test_capturing_does_not_overwrite_existing_entries(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[environment]\nHF_HOME = '/mine'\n")
    environ = {"HF_HOME": "/shell", "NO_PROXY": "x"}
    assert capture_environment(path, environ) == ["NO_PROXY"]
    assert read_config_file(path)["environment"] == {"HF_HOME": "/mine", "NO_PROXY": "x"}
    assert capture_environment(path, environ) == []


def test_a_new_configuration_is_private_and_a_symlink_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    capture_environment(path, {"HF_HOME": "/x"})
    assert path.stat().st_mode & 0o777 == 0o600
    dotfiles = tmp_path / "dotfiles.toml"
    dotfiles.write_text("preload = false\n")
    link = tmp_path / "config.toml"
    link.symlink_to(dotfiles)
    capture_environment(link, {"HF_HOME": "/x"})
    assert link.is_symlink()
    assert "HF_HOME" in dotfiles.read_text()


def test_a_damaged_configuration_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("= =")
    with pytest.raises(ConfigError):
        capture_environment(path, {"HF_HOME": "/x"})
    assert path.read_text() == "= ="
