"""Copies to the clipboard with a program of the system, or through the terminal, also over SSH."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

PROGRAMS = (
    ("pbcopy", (), None),
    ("wl-copy", (), "WAYLAND_DISPLAY"),
    ("xclip", ("-selection", "clipboard"), "DISPLAY"),
    ("xsel", ("-bi",), "DISPLAY"),
)
"""A program, its arguments, and the variable that must be set for it."""
PROGRAM_S = 5.0


def copy(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Copy a text to the clipboard and return a message for the user, or "" without a clipboard."""
    for program, arguments, variable in PROGRAMS:
        usable = variable is None or environ.get(variable)
        if usable and shutil.which(program) and _run([program, *arguments], text):
            return "Copied."
    if not sys.stderr.isatty():
        return ""
    # OSC 52: the terminal copies the text itself.
    coded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    sys.stderr.write(f"\x1b]52;c;{coded}\a")
    sys.stderr.flush()
    return "Copied, if this terminal allows it."


def _run(command: list[str], text: str) -> bool:
    """Whether the program took the text. What it prints would only disturb the terminal."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command,
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROGRAM_S,
            check=False,
        )
        return done.returncode == 0
    return False
