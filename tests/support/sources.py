"""Copies the sources, so that a test can change them while a daemon runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "client", "daemon", "launchd")


def copy_sources(folder: Path) -> str:
    """Copy the sources below `folder`. Returns the PYTHONPATH that runs the copy."""
    for part in PARTS:
        shutil.copytree(
            ROOT / part / "mlxd",
            folder / part / "mlxd",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return os.pathsep.join(str(folder / part) for part in PARTS)


def touch(folder: Path, file: str) -> None:
    """Change a copied file without changing its behaviour."""
    path = folder / file
    path.write_text(path.read_text() + "\n# newer\n")
