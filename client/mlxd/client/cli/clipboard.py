"""The clipboard: the system's own program, or the terminal, which has one also over SSH."""

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
"""Program, its arguments, and the variable without which it cannot work."""
PROGRAM_S = 5.0


def copy(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Put a text on the clipboard and return what to tell the person; "": there is none."""
    for program, arguments, variable in PROGRAMS:
        usable = variable is None or environ.get(variable)
        if usable and shutil.which(program) and _run([program, *arguments], text):
            return "Copied."
    if not sys.stderr.isatty():
        return ""
    # OSC 52: the terminal itself has the clipboard.
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
