"""The program's sources, copied so that they can be changed under a running daemon."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "client", "daemon", "launchd")


def copy_sources(folder: Path) -> str:
    """Copy them below `folder`; returns the PYTHONPATH with which they run."""
    for part in PARTS:
        shutil.copytree(
            ROOT / part / "mlxd",
            folder / part / "mlxd",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return os.pathsep.join(str(folder / part) for part in PARTS)


def touch(folder: Path, file: str) -> None:
    """Make a copied file another, with the same meaning."""
    path = folder / file
    path.write_text(path.read_text() + "\n# newer\n")
