"""Reads files of a model's folder safely: they may be broken links, pipes or garbage."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

from mlxd.protocol.privacy import is_protected

JSON_MAX_BYTES = 100_000_000
"""The safetensors format's limit for its header. Configurations and indexes are far smaller."""
PATH_MAX_BYTES = 1024  # MAXPATHLEN of macOS, which F_GETPATH fills
INDEX_NAME = "model.safetensors.index.json"
READ_BY_LOADERS = re.compile(
    r"model.*\.safetensors|.*\.safetensors\.index\.json|config\.json|generation_config\.json"
    r"|hf_quant_config\.json|adapter_config\.json|adapters\.safetensors|(pre)?processor_config\.json"
    r"|tokenizer.*|special_tokens_map\.json|added_tokens\.json|chat_template.*|vocab.*|merges\.txt"
    r"|.*\.(py|model|tiktoken|jinja)"
)
"""Names of files that mlx-lm and transformers open."""


class Unreadable(Exception):
    """A file of a model cannot be used. `reason` completes the sentence "FILE …"."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path
        self.reason = reason


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        FileNotFoundError: there is neither a file nor a link of that name.
        Unreadable: it is not a regular file, or does not contain a JSON object.
    """
    data = read_regular(path)
    try:
        value = json.loads(data)
    except RecursionError:
        raise Unreadable(path, "is nested too deep to be read") from None
    except UnicodeDecodeError as exc:
        raise Unreadable(path, f"is not UTF-8 text (byte {exc.start})") from None
    except ValueError as exc:
        raise Unreadable(path, f"is not valid JSON: {exc}") from None
    if not isinstance(value, dict):
        raise Unreadable(path, "is not a JSON object")
    if data.startswith(b"\xef\xbb\xbf"):
        # mlx-lm refuses it without naming the file.
        raise Unreadable(path, "starts with a byte order mark: save it as UTF-8 without one")
    return value


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file of reasonable size. Raises as `read_object`."""
    try:
        # Before opening, because opening a pipe waits for a writer.
        status = path.stat()
        if problem := _mode_problem(status.st_mode):
            raise Unreadable(path, problem)
        if status.st_size > JSON_MAX_BYTES:
            raise Unreadable(path, f"is too large: {status.st_size} bytes")
        with path.open("rb") as stream:
            return stream.read(JSON_MAX_BYTES)
    except FileNotFoundError:
        if path.is_symlink():
            raise Unreadable(path, "is a link to a file that does not exist") from None
        raise
    except OSError as exc:
        raise Unreadable(path, os_problem(exc)) from exc


def check_entries(folder: Path) -> None:
    """Check every entry that a loader would open.

    Raises:
        Unreadable: an entry is a broken or circular link, or not a regular file.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as exc:
        raise Unreadable(folder, os_problem(exc)) from exc
    for name in names:
        if READ_BY_LOADERS.fullmatch(name):
            check_entry(folder / name)


def check_entry(path: Path) -> None:
    """Raise Unreadable if a path does not lead to a regular file."""
    try:
        problem = _mode_problem(path.stat().st_mode)
    except FileNotFoundError:
        problem = "is a link to a file that does not exist"
    except OSError as exc:
        problem = os_problem(exc)
    if problem:
        raise Unreadable(path, problem)


def _mode_problem(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    return "is a folder, not a file" if stat.S_ISDIR(mode) else "is a pipe or device, not a file"


def identity(path: str | os.PathLike[str]) -> str:
    """Return the canonical path of a folder: links, `..` and letter case are resolved.

    A path that does not exist becomes absolute and loses its `..`.
    """
    try:
        real = os.path.realpath(os.path.expanduser(path))
    except ValueError:  # no file system accepts the name
        return os.path.abspath(path)
    if sys.platform == "darwin":
        return _spelled_as_stored(real)
    return real


def _spelled_as_stored(path: str) -> str:
    """Return a path as the file system spells it. macOS accepts any case and normalization."""
    import fcntl

    get_path = getattr(fcntl, "F_GETPATH", None)
    if get_path is None:
        return path
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return path
    try:
        stored = fcntl.fcntl(descriptor, get_path, bytes(PATH_MAX_BYTES))
    except OSError:
        return path
    finally:
        os.close(descriptor)
    return os.fsdecode(stored.rstrip(b"\0")) or path


def os_problem(exc: OSError) -> str:
    """Return the end of the sentence "FILE …" for an error of the operating system."""
    if exc.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if is_protected(exc):
        return f"cannot be read: {exc.strerror or exc} (macOS protects its folder)"
    return f"cannot be read: {exc.strerror or exc}"


def indexed_names(folder: Path) -> set[str]:
    """Return the weight files in the folder's index, or none if there is no index.

    Raises:
        Unreadable: it cannot be read, or names a file outside the folder.
    """
    index = folder / INDEX_NAME
    try:
        weight_map = read_object(index).get("weight_map")
    except FileNotFoundError:
        return set()
    if not isinstance(weight_map, dict):
        raise Unreadable(index, "has no weight_map")
    names = [*weight_map.values()]
    if odd := [name for name in names if not isinstance(name, str) or _leads_away(name)]:
        raise Unreadable(index, f"names {str(odd[0])[:80]!r}, which is not a file in this folder")
    return set(names)


def _leads_away(name: str) -> bool:
    return not name or "/" in name or "\\" in name or "\0" in name or name in (".", "..")
