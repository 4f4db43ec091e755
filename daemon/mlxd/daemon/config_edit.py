"""Adds entries to `config.toml` and leaves every other byte of it as the user wrote it."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlxd.daemon.config import ConfigError, read_config_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
"""What a service needs of the shell's environment to find models and the hub. No tokens: the hub's
own file below HF_HOME holds them."""


def captured_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is worth keeping of a shell's environment for a service."""
    found = {name: environ[name] for name in CAPTURED if environ.get(name)}
    xdg = environ.get("XDG_CACHE_HOME")
    if xdg and not {"HF_HOME", "HF_HUB_CACHE"} & found.keys():
        # The hub's library looks there; a service would not.
        found["HF_HOME"] = os.path.join(xdg, "huggingface")
    return found


def capture_environment(path: Path, environ: Mapping[str, str]) -> list[str]:
    """Add to `[environment]` what the shell has and the file has not; returns the names added.

    Raises:
        ConfigError: the file is damaged, or written in a way that cannot be added to safely.
    """
    present = read_config_file(path).get("environment", {})
    wanted = {k: v for k, v in captured_environment(environ).items() if k not in present}
    if wanted:
        text = path.read_text("utf-8") if path.exists() else ""
        write_text(path, with_entries(text, "environment", wanted, path))
    return [*wanted]


def with_entries(text: str, table: str, entries: Mapping[str, str], path: Path) -> str:
    """Return TOML `text` with string entries added to a top-level table. Pure.

    Raises:
        ConfigError: the result would not say what it should; the entries are in the hint.
    """
    lines = [f"{key} = {_quoted(value)}" for key, value in entries.items()]
    edited = _insert(text, table, lines)
    before = tomllib.loads(text)
    expected = {**before, table: {**before.get(table, {}), **entries}}
    try:
        # The reader's word decides, not our understanding of the text.
        safe = tomllib.loads(edited) == expected
    except tomllib.TOMLDecodeError:
        safe = False
    if not safe:
        raise ConfigError(
            f"{path} is written in a way that mlxd does not dare to change.",
            hint=f"Add to its table {table}: {'; '.join(lines)}",
        )
    return edited


def _insert(text: str, table: str, lines: list[str]) -> str:
    header = re.search(rf"^[ \t]*\[[ \t]*{table}[ \t]*\][^\n]*$", text, re.MULTILINE)
    block = "\n".join(lines)
    if header is not None:
        return f"{text[: header.end()]}\n{block}{text[header.end() :]}"
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}[{table}]\n{block}\n"


def _quoted(value: str) -> str:
    """A JSON string is a TOML string, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_text(path: Path, text: str) -> None:
    """Replace a file's content whole or not at all. Links are followed: it may live elsewhere."""
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
