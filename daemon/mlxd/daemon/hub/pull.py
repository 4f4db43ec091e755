"""Downloads a model into the Hugging Face cache, which every other tool shares.

The cache's branch moves to the new commit only when all files are complete. The old model can be
loaded during an update, and after an interrupted one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from mlxd.daemon.hub import large_file
from mlxd.daemon.hub.failures import translated
from mlxd.daemon.models.cache import repo_folder
from mlxd.protocol.errors import MlxdError, ModelLoadFailed

WANTED = ("*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "tiktoken.model",
          "*.txt", "*.jsonl", "*.jinja")  # fmt: skip
"""Files from which mlx-lm loads a model."""
AT_ONCE = 4
REPORT_EVERY_S = 0.1
ROOM_BYTES = 256 * 2**20
"""Free space that a download leaves on the disk."""

Report = Callable[[dict[str, Any]], None]


def pull(job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Download a model. `job` has `repo`, `revision` (None: main) and `cache_dir`.

    Returns {repo, revision, bytes}, where `bytes` counts all files of the model.

    Raises:
        ModelNotFound, PermissionDenied: the hub does not have it, or asks for an account.
        ModelLoadFailed: not enough disk space, or no weights that MLX can load.
        HubUnreachable: there is no connection, or it broke.
    """
    repo, revision = job["repo"], job["revision"] or "main"
    cache_dir = Path(job["cache_dir"])
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = model_files(info, repo)
        folder = repo_folder(cache_dir, repo)
        _check_room(files, folder)
        _download(files, repo, str(info.sha), cache_dir, report)
    except MlxdError:
        raise
    except Exception as exc:
        raise translated(exc, repo, revision) from exc
    _move_branch(folder, revision, str(info.sha))
    return {"repo": repo, "revision": info.sha, "bytes": sum(file.size or 0 for file in files)}


def model_files(info: ModelInfo, repo: str) -> list[RepoSibling]:
    """Return the files from which mlx-lm loads a model.

    Raises:
        ModelLoadFailed: the repository has no weights that MLX can load.
    """
    everything = info.siblings or []
    files = [one for one in everything if any(fnmatch(one.rfilename, want) for want in WANTED)]
    names = {one.rfilename for one in files}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelLoadFailed(
            f"{repo} has no weights that MLX can load (config.json and model*.safetensors).",
            hint="Choose one in MLX or safetensors format, for instance of mlx-community.",
            data={"model": repo},
        )
    return files


def _check_room(files: list[RepoSibling], folder: Path) -> None:
    needed = sum(_missing_bytes(file, folder / "blobs") for file in files)
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed and needed + ROOM_BYTES > free:
        raise ModelLoadFailed(
            f"Not enough space at {place}: {_gb(needed)} are needed, {_gb(free)} are free.",
            hint="Delete a model (mlx models rm NAME), or set HF_HUB_CACHE to another disk.",
            data={"needed_bytes": needed, "free_bytes": free},
        )


def _missing_bytes(file: RepoSibling, blobs: Path) -> int:
    blob = file.lfs.sha256 if file.lfs is not None else file.blob_id
    if blob is None or (blobs / blob).exists():
        return 0
    partly = large_file.partial_path(blobs / blob)
    return max(0, (file.size or 0) - (partly.stat().st_size if partly.exists() else 0))


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _download(
    files: list[RepoSibling], repo: str, commit: str, cache_dir: Path, report: Report
) -> None:
    blobs = repo_folder(cache_dir, repo) / "blobs"

    def fetch(file: RepoSibling) -> None:
        size = file.size or 0
        if file.lfs is not None:
            url = huggingface_hub.hf_hub_url(repo, file.rfilename, revision=commit)
            came = _throttled(file.rfilename, size, report)
            large_file.download(url, blobs / file.lfs.sha256, size, file.lfs.sha256, came)
        # Links the file into the snapshot. Small files are downloaded by this call, too.
        huggingface_hub.hf_hub_download(
            repo, file.rfilename, revision=commit, cache_dir=cache_dir, tqdm_class=_NoBar
        )
        report({"file": file.rfilename, "done": size, "total": size})

    # Weights come last, because a folder without them does not count as a model.
    files = sorted(files, key=lambda one: one.size or 0)
    for file in files:
        report({"file": file.rfilename, "done": 0, "total": file.size or 0})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(fetch, file) for file in files]:
            done.result()


def _throttled(name: str, size: int, report: Report) -> Callable[[int], None]:
    said_s = 0.0

    def came(done: int) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= REPORT_EVERY_S:
            said_s = time.monotonic()
            report({"file": name, "done": done, "total": size})

    return came


class _NoBar(huggingface_hub.utils.tqdm):  # type: ignore[misc]
    """A progress bar that draws nothing. The client draws one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _move_branch(folder: Path, branch: str, commit: str) -> None:
    if branch == commit:
        return
    ref = folder / "refs" / branch
    ref.parent.mkdir(parents=True, exist_ok=True)
    fresh = ref.with_name(f".{ref.name}.{os.getpid()}")
    fresh.write_text(commit)
    fresh.replace(ref)
