"""Deletes a model from the Hugging Face cache, and its cached prompts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlxd.daemon.engine.models.files import fingerprint
from mlxd.protocol.errors import MlxdError


def remove(job: dict[str, Any]) -> dict[str, Any]:
    """Delete the repository's `folder`, and the cached prompts of its snapshots in `prompts_dir`.

    Returns {removed, bytes}, where bytes counts what was freed.
    """
    folder = Path(job["folder"])
    kept = _prompts(folder, Path(job["prompts_dir"]))
    freed = sum(_bytes(place) for place in [folder, *kept])
    for place in [folder, *kept]:
        shutil.rmtree(place)
    shutil.rmtree(folder.parent / ".locks" / folder.name, ignore_errors=True)
    return {"removed": True, "bytes": freed}


def _prompts(folder: Path, prompts_dir: Path) -> list[Path]:
    found = []
    for snapshot in (folder / "snapshots").glob("*"):
        try:
            place = prompts_dir / fingerprint(snapshot)
        except (OSError, ValueError, MlxdError):
            continue  # an incomplete model has no cached prompts
        if place.is_dir():
            found.append(place)
    return found


def _bytes(place: Path) -> int:
    return sum(
        one.stat().st_size for one in place.rglob("*") if one.is_file() and not one.is_symlink()
    )
