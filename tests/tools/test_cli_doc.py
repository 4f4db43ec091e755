"""The page of commands is generated from their help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "cli_doc.py"


def test_the_cli_page_is_generated_from_the_help() -> None:
    # In a separate process, because click caches the help option of the first caller.
    check = subprocess.run([sys.executable, str(TOOL), "--check"], check=False)
    assert check.returncode == 0, "python tools/cli_doc.py"
