"""SmolLM2-135M-Instruct: a model of 135 million parameters, with a tokenizer of 49,152 tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from support.needs import missing
from support.turns import turn

TOOL = Path(__file__).resolve().parents[2] / "tools" / "real_model"


def real_model_folder() -> Path:
    """Return the model's folder in the user's cache. The first call downloads 93 MB."""
    command = [sys.executable, str(TOOL)]
    with turn("real-model"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"the real model could not be downloaded: {done.stderr.strip()}")
    return Path(done.stdout.strip())


def as_ref(folder: Path) -> dict[str, Any]:
    """Return the reference of a model folder for the engine."""
    return {"name": folder.name, "path": str(folder)}
