"""Changes entries of `config.toml` without reformatting the rest of the file."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from mlxd.daemon import lock
from mlxd.daemon.config import ConfigError, check_config_text, read_config_file

CAPTURED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)
"""Variables of the shell that a service needs to find models and the hub. Tokens are not copied:
the hub library keeps them in a file below HF_HOME."""


def captured_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a shell's environment that a service needs."""
    found = {name: environ[name] for name in CAPTURED if environ.get(name)}
    xdg = environ.get("XDG_CACHE_HOME")
    if xdg and not {"HF_HOME", "HF_HUB_CACHE"} & found.keys():
        # The hub library uses this variable too, and a service does not see it.
        found["HF_HOME"] = os.path.join(xdg, "huggingface")
    return found


def capture_environment(path: Path, environ: Mapping[str, str]) -> list[str]:
    """Add the shell's variables that `[environment]` lacks. Return their names.

    Raises:
        ConfigError: the file is damaged or cannot be edited safely.
    """
    present = read_config_file(path).get("environment", {})
    wanted = {k: v for k, v in captured_environment(environ).items() if k not in present}
    if wanted:
        edit_config(path, "environment", wanted)
    return [*wanted]


def with_entries(text: str, table: str, entries: Mapping[str, str | None], path: Path) -> str:
    """Return TOML `text` with strings set in the table `table`, or at the top level if it is "".

    None removes an entry. Pure.

    Raises:
        ConfigError: the result would not contain the entries. The hint lists them.
    """
    import tomlkit

    document = tomlkit.parse(text)
    place: Any = document.setdefault(table, tomlkit.table()) if table else document
    if isinstance(place, MutableMapping):
        for key, value in entries.items():
            if value is None:
                place.pop(key, None)
            else:
                place[key] = value
    edited = tomlkit.dumps(document)
    # Compare what a TOML parser reads, whatever the text looks like.
    if _loaded(edited) != _expected(tomllib.loads(text), table, entries):
        lines = [f"{key} = {json.dumps(value)}" for key, value in entries.items()]
        raise ConfigError(
            f"{path} cannot be edited safely.",
            hint=f"Add to it{f', in the table {table}' if table else ''}: {'; '.join(lines)}",
        )
    return edited


def edit_config(path: Path, table: str, entries: Mapping[str, str | None]) -> dict[str, Any]:
    """Set or remove strings in `config.toml`. Return its new settings.

    A lock serialises edits by other threads and processes.

    Raises:
        ConfigError: as `with_entries`, or the result is not a valid configuration.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with lock.exclusive(target.with_name(f".{target.name}.lock")):
        read_config_file(path)  # a damaged file is left unchanged
        text = path.read_text("utf-8") if path.exists() else ""
        edited = with_entries(text, table, entries, path)
        settings = check_config_text(path, edited)
        write_text(path, edited)
    return settings


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _expected(
    before: dict[str, Any], table: str, entries: Mapping[str, str | None]
) -> dict[str, Any]:
    inside = before.get(table, {}) if table else before
    changed = dict(inside) if isinstance(inside, dict) else {}
    for key, value in entries.items():
        changed.pop(key, None)
        if value is not None:
            changed[key] = value
    return {**before, table: changed} if table else changed


def write_text(path: Path, text: str) -> None:
    """Replace a file's content atomically. Symlinks are followed."""
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
