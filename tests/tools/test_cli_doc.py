"""The page of commands says what the commands say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "cli_doc.py"


def test_the_page_of_commands_is_the_commands_help() -> None:
    # In a process of its own: click keeps the help option of whoever asked first.
    check = subprocess.run([sys.executable, str(TOOL), "--check"], check=False)
    assert check.returncode == 0, "python tools/cli_doc.py"
