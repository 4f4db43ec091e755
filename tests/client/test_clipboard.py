"""The clipboard, with scripts in place of the desktop's programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.terminal import terminal

COPY = "from mlxd.client.cli.clipboard import copy; print('said: ' + copy('a text'))"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}


def program(folder: Path, name: str, lines: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o700)


def test_the_first_working_program_gets_the_text_and_its_output_is_hidden(
    environ: dict[str, str], tmp_path: Path
) -> None:
    program(tmp_path, "wl-copy", "echo noise; exit 1")
    program(tmp_path, "xclip", f"echo noise >&2; /bin/cat > {tmp_path}/got")
    done = subprocess.run(
        [sys.executable, "-c", COPY],
        env={**environ, "DISPLAY": ":0", "WAYLAND_DISPLAY": "w"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("said: Copied.\n", "")
    assert (tmp_path / "got").read_text() == "a text"


def test_a_clipboard_program_without_its_display_is_not_tried(
    environ: dict[str, str], tmp_path: Path
) -> None:
    program(tmp_path, "xclip", "exit 0")
    done = subprocess.run(
        [sys.executable, "-c", COPY], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "said: \n"


def test_the_terminals_clipboard_is_used_if_no_program_exists(environ: dict[str, str]) -> None:
    with terminal([sys.executable, "-c", COPY], environ) as screen:
        assert "said: Copied, if this terminal allows it." in screen.end()
        assert "\x1b]52;c;YSB0ZXh0\a" in screen.raw
