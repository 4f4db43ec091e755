"""Imports models of other tools as symbolic links. Their files are never changed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxd.daemon.models.files import identity
from mlxd.daemon.models.other_tools import Candidate, find_models, gguf_refusal, known_roots
from mlxd.protocol.errors import ModelLoadFailed, ModelNotFound


@dataclass(slots=True)
class Report:
    """The result of an import. Each entry has `name` and `path`. Skipped ones have a `problem`."""

    imported: list[dict[str, Any]] = field(default_factory=list)
    known: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)

    def to_map(self) -> dict[str, Any]:
        """Return the report as it goes over the wire."""
        return {"imported": self.imported, "known": self.known, "skipped": self.skipped}


def import_models(path: Path | None, own_dir: Path, known: Mapping[str, str], home: Path) -> Report:
    """Link the models in `path` (None: the folders of LM Studio and oMLX) into `own_dir`.

    `known` maps the real folder of each model on this machine to its name.

    Raises:
        ModelNotFound: there is no folder `path`, or it contains no model.
        ModelLoadFailed: it contains GGUF weights, or none of its models can be loaded.
    """
    roots = [root.path for root in known_roots(home)] if path is None else [path]
    report = Report()
    taken = {name.lower() for name in known.values()}
    for root in roots:
        for candidate in find_models(root):
            _import_one(candidate, own_dir, known, taken, report)
    if path is not None and not (report.imported or report.known):
        raise _nothing(path, report)
    return report


def _import_one(
    candidate: Candidate,
    own_dir: Path,
    known: Mapping[str, str],
    taken: set[str],
    report: Report,
) -> None:
    real = identity(candidate.path)
    entry = {"name": candidate.name, "path": real}
    if any(one["path"] == real for one in report.imported):
        return
    if real in known:
        report.known.append({**entry, "name": known[real]})
    elif candidate.problem is not None:
        report.skipped.append({**entry, "problem": candidate.problem})
    else:
        name = free_name(candidate, taken)
        _link(own_dir / name, real)
        taken.add(name.lower())
        report.imported.append({**entry, "name": name})


def free_name(candidate: Candidate, taken: Iterable[str]) -> str:
    """Return an unused name: the model's own, with its parent folder's name, or with a number."""
    last = candidate.name.rsplit("/", 1)[-1]
    parent = candidate.path.parent.name
    numbered = (f"{candidate.name}-{count}" for count in itertools.count(2))
    wanted = [candidate.name, *([f"{parent}/{last}"] if parent else [])]
    used = set(taken)
    return next(name for name in itertools.chain(wanted, numbered) if name.lower() not in used)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if link.is_symlink() and not link.exists():  # the other tool deleted its model
        link.unlink()
    link.symlink_to(target, target_is_directory=True)


def remove_link(link: Path) -> None:
    """Remove an imported model's link, and its organisation's folder if that is empty now."""
    link.unlink()
    with contextlib.suppress(OSError):
        link.parent.rmdir()


def _nothing(path: Path, report: Report) -> ModelNotFound | ModelLoadFailed:
    if report.skipped:
        first = report.skipped[0]
        return ModelLoadFailed(
            f"{first['path']} cannot be imported: {first['problem']}.",
            hint="Complete the download in the other tool, or get it here: mlx models pull NAME",
        )
    if (refusal := gguf_refusal(path)) is not None:
        return refusal
    if not os.path.isdir(path):
        return ModelNotFound(
            f"There is no folder {path}.", hint="Check the path.", data={"nearest": []}
        )
    return ModelNotFound(
        f"No MLX model was found in {path} (config.json and model*.safetensors).",
        hint="Give the folder of a model, or a folder that contains such folders.",
        data={"nearest": []},
    )
