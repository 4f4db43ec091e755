"""Finds the MLX models that other tools have downloaded. Reads folders, changes nothing.

LM Studio keeps `models/PUBLISHER/MODEL/` in its home, which `~/.lmstudio-home-pointer` names. oMLX
keeps `~/.omlx/models/MODEL/` or `ORG/MODEL/`, and lists more folders in its settings. Ollama keeps
GGUF blobs, which MLX cannot load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxd.daemon.models import cache
from mlxd.daemon.models.files import identity
from mlxd.daemon.models.folder import BrokenFolder, check_folder, read_json
from mlxd.protocol.errors import ModelLoadFailed

SEARCH_DEPTH = 3
"""Levels below a folder that are searched: a folder of ORG/NAME folders, and one more."""
SEARCH_FOLDERS_MAX = 10_000
_CACHE_FOLDER = "models--"
_GGUF_QUANTISATION = re.compile(r"[-._](?:i?q\d\w*|f16|f32|bf16|fp16|\d+-of-\d+)$", re.IGNORECASE)
_OLLAMA_BLOB = re.compile(r"sha256-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Root:
    """A folder in which a tool keeps its models."""

    tool: str
    path: Path


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder with MLX weights. `problem` says why it cannot be loaded, or is None."""

    name: str
    path: Path
    problem: str | None = None


def known_roots(home: Path) -> list[Root]:
    """Return the model folders of LM Studio and oMLX that exist below `home`."""
    found = [Root("LM Studio", path) for path in _lm_studio(home)]
    found += [Root("oMLX", path) for path in _omlx(home)]
    roots: dict[str, Root] = {}
    for root in found:
        if root.path.is_dir():
            roots.setdefault(identity(root.path), root)
    return [*roots.values()]


def _lm_studio(home: Path) -> Iterator[Path]:
    places = [home / ".lmstudio", home / ".cache" / "lm-studio"]
    try:
        pointer = (home / ".lmstudio-home-pointer").read_text().strip()
    except (OSError, UnicodeDecodeError):
        pointer = ""
    if os.path.isabs(pointer):
        places.insert(0, Path(pointer))
    for place in places:
        chosen = (read_json(place / "settings.json") or {}).get("downloadsFolder")
        if isinstance(chosen, str) and os.path.isabs(chosen):
            yield Path(chosen)
        yield place / "models"


def _omlx(home: Path) -> Iterator[Path]:
    yield home / ".omlx" / "models"
    about = (read_json(home / ".omlx" / "settings.json") or {}).get("model")
    chosen = about.get("model_dirs") if isinstance(about, dict) else None
    for path in chosen if isinstance(chosen, list) else ():
        if isinstance(path, str) and os.path.isabs(os.path.expanduser(path)):
            yield Path(os.path.expanduser(path))


def find_models(root: Path) -> list[Candidate]:
    """Return the models in `root`, or `root` itself if it is a model.

    A name is the path below `root`, such as ORG/NAME. In a cache of the Hugging Face hub, names are
    those of its repositories.
    """
    if (root / "config.json").is_file():
        return [_candidate(root.name, root)]
    return [*_search(root)]


def _search(root: Path) -> Iterator[Candidate]:
    """Search level by level, so that a circular link does not hide a nearer folder."""
    seen = {identity(root)}
    level = [root]
    for _ in range(SEARCH_DEPTH):
        below: list[Path] = []
        for path in (path for folder in level for path in _folders(folder)):
            real = identity(path)
            if real in seen or len(seen) >= SEARCH_FOLDERS_MAX:
                continue
            seen.add(real)
            if path.name.startswith(_CACHE_FOLDER):
                yield from _cached(path.parent, path)
            elif (path / "config.json").is_file():
                yield _candidate("/".join(path.relative_to(root).parts[-2:]), path)
            else:
                below.append(path)
        level = below


def _folders(folder: Path) -> list[Path]:
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir()]
    except OSError:
        return []
    return sorted(path for path in found if _is_text(path.name))


def _is_text(name: str) -> bool:
    """Return whether a file name is valid text. Others cannot be sent to a client."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cached(cache_dir: Path, folder: Path) -> Iterator[Candidate]:
    name = folder.name.removeprefix(_CACHE_FOLDER).replace("--", "/")
    repo = cache.find_repo(cache_dir, name)
    if repo is not None and repo.snapshot is not None:
        yield _candidate(repo.name, repo.snapshot)


def _candidate(name: str, path: Path) -> Candidate:
    try:
        check_folder(path)
    except BrokenFolder as exc:
        return Candidate(name, path, exc.problem)
    return Candidate(name, path)


def gguf_refusal(path: Path) -> ModelLoadFailed | None:
    """Return the error for a GGUF file, a folder of them, or Ollama's store.

    None: it is none of these.

    MLX could read some GGUF files, but neither their tokenizers nor most of their quantisations.
    """
    words = _gguf_words(path)
    if words is None:
        return None
    search = f"mlx models search {words}" if words else "mlx models suggest"
    return ModelLoadFailed(
        f"{path} has GGUF weights, which MLX cannot load.",
        hint=f"Get the same model in MLX format: {search}",
    )


def _gguf_words(path: Path) -> str | None:
    """Return words that find the model of a GGUF file on the hub, or "" if unknown.

    None: not GGUF.
    """
    # os.path returns False for names that no file system accepts, but pathlib raises.
    if os.path.isfile(path):
        if path.suffix.lower() == ".gguf":
            return _model_words(path.stem)
        return "" if _OLLAMA_BLOB.fullmatch(path.name) else None
    if not os.path.isdir(path):
        return None
    if (path / "manifests").is_dir() and (path / "blobs").is_dir():
        return _first_manifest(path / "manifests")
    if (path / "models" / "manifests").is_dir():
        return _first_manifest(path / "models" / "manifests")
    try:
        files = sorted(path.glob("*.gguf")) or sorted(path.glob("*/*/*.gguf"))
    except OSError:
        return None
    return _model_words(files[0].stem) if files else None


def _first_manifest(manifests: Path) -> str:
    """Return the model of Ollama's first manifest: HOST/NAMESPACE/MODEL/TAG."""
    found = sorted(path for path in manifests.glob("*/*/*/*") if path.is_file())
    return found[0].parent.name if found else ""


def _model_words(stem: str) -> str:
    while (shorter := _GGUF_QUANTISATION.sub("", stem)) != stem:
        stem = shorter
    return stem if re.fullmatch(r"[\w.-]+", stem) else ""
