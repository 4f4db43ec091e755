"""Editors find mlxd without a PATH, as when they are started from macOS's Dock."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support import needs
from support.neovim import neovim

PACKAGE = Path(__file__).resolve().parents[2] / "client" / "editors" / "emacs"


def emacs(environ: dict[str, str], folder: Path) -> str:
    code = '(princ (or (mlxd--program "mlxd-own") ""))'
    done = subprocess.run(
        [needs.program("emacs"), "-Q", "--batch", "-L", str(PACKAGE), "-l", "mlxd", "--eval", code],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def nvim(environ: dict[str, str], folder: Path) -> str:
    own = Path(tempfile.mkdtemp(dir=folder))  # each has a socket of its own
    with neovim(environ, own) as editor:
        found: str = editor.lua("return require('mlxd.client').program('mlxd-own') or ''")
    return found


@pytest.mark.parametrize("editor", [emacs, nvim])
def test_a_program_is_found_where_uv_and_pipx_install_it(
    editor: Callable[[dict[str, str], Path], str], tmp_path: Path
) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    program = tmp_path / ".local" / "bin" / "mlxd-own"
    assert editor(environ, tmp_path) == ""
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert editor(environ, tmp_path) == str(program)
