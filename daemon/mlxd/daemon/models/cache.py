"""Reads the Hugging Face cache on disk, without the hub library.

Layout: `models--ORG--NAME/refs/BRANCH` contains a commit, and `snapshots/COMMIT/` has its files as
links into `blobs/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "models--"
_NAME_MAX = 96 + 1 + 96  # the hub's limit for each part
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """One repository of the cache. `snapshot` is None if nothing usable was downloaded."""

    name: str
    folder: Path
    snapshot: Path | None
    revision: str | None


def hub_cache_dir(environ: Mapping[str, str], home: Path | None = None) -> Path:
    """Return the hub's cache folder, found as huggingface_hub finds it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := environ.get(variable):
            return Path(os.path.expanduser(chosen))
    if hf_home := environ.get("HF_HOME"):
        return Path(os.path.expanduser(hf_home)) / "hub"
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(os.path.expanduser(xdg)) / "huggingface" / "hub"
    return (home or Path(os.path.expanduser(environ.get("HOME") or "~"))) / ".cache/huggingface/hub"


def is_repo_name(name: str) -> bool:
    """Return whether `name` has the form of a Hugging Face id."""
    fits = len(name) <= _NAME_MAX and ".." not in name and "--" not in name
    return fits and bool(_REPO.fullmatch(name))


def repo_folder(cache_dir: Path, name: str) -> Path:
    """Return the folder in which the cache keeps a repository."""
    return cache_dir / (_PREFIX + name.replace("/", "--"))


def repo_names(cache_dir: Path) -> list[str]:
    """Return the sorted names of all cached repositories."""
    try:
        with os.scandir(cache_dir) as entries:
            folders = [e.name for e in entries if e.name.startswith(_PREFIX) and e.is_dir()]
    except OSError:
        return []
    return sorted(folder[len(_PREFIX) :].replace("--", "/") for folder in folders)


def find_repo(cache_dir: Path, name: str, revision: str | None = None) -> CachedRepo | None:
    """Return a repository of the cache, or None if the cache does not have it."""
    if not is_repo_name(name) or not (folder := repo_folder(cache_dir, name)).is_dir():
        return None
    for commit in _commits(folder, revision):
        snapshot = folder / "snapshots" / commit
        if snapshot.is_dir():
            return CachedRepo(name, folder, snapshot, commit)
    return CachedRepo(name, folder, None, revision)


def _commits(folder: Path, revision: str | None) -> Iterator[str]:
    """Yield the commits to try: the requested one, or those of main and then the newest."""
    if revision is not None:
        if _REVISION.fullmatch(revision) and ".." not in revision:
            yield from _ref(folder, revision)
            if "/" not in revision:
                yield revision
        return
    yield from _ref(folder, "main")
    try:
        snapshots = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
    except OSError:
        return
    yield from (path.name for path in sorted(snapshots, key=_age, reverse=True))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _ref(folder: Path, branch: str) -> Iterator[str]:
    try:
        commit = (folder / "refs" / branch).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return
    if commit and "/" not in commit and ".." not in commit:
        yield commit
