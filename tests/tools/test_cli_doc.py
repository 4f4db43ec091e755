"""The page of commands says what the commands say."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools"))

# isort: split
import cli_doc


def test_the_page_of_commands_is_the_commands_help():
    assert cli_doc.PAGE.read_text(encoding="utf-8") == cli_doc.page(), "python tools/cli_doc.py"
