"""What is said where macOS's privacy protection refuses a file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.inputs import read_file
from mlxd.daemon.models import files
from mlxd.protocol.privacy import PRIVACY_HINT, is_protected, privacy_hint

REFUSED = OSError(errno.EPERM, "Operation not permitted")


def test_only_eperm_on_macos_is_the_protection_s() -> None:
    assert privacy_hint(REFUSED, "other", "darwin") == PRIVACY_HINT
    assert privacy_hint(REFUSED, "other", "linux") == "other"
    assert privacy_hint(OSError(errno.EACCES, "denied"), "other", "darwin") == "other"
    assert "Files and Folders" in PRIVACY_HINT


def test_the_cause_of_an_error_counts() -> None:
    wrapped = ValueError("cannot be read")
    wrapped.__cause__ = REFUSED
    assert is_protected(wrapped, "darwin")
    assert not is_protected(wrapped, "linux")
    assert not is_protected(ValueError("cannot be read"), "darwin")


def refuse(*_: object, **__: object) -> None:
    raise REFUSED


def test_a_file_that_a_command_reads_gets_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(Misuse) as caught:
        read_file("/Users/u/Documents/notes")
    assert caught.value.hint == PRIVACY_HINT


def test_a_model_in_a_protected_folder_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(files.Unreadable, match="macOS protects its folder"):
        files.read_object(tmp_path / "config.json")
