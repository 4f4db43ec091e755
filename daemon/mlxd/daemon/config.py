"""The configuration: option, then `MLXD_*` variable, then `config.toml`, then default.

`Config` is the only table of settings. The checks of the file, the names of variables and
`docs/configuration.md` are derived from it.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mlxd.daemon.settings import BadValue, Setting, setting
from mlxd.protocol.errors import EXIT_USAGE, MlxdError
from mlxd.protocol.paths import Paths

LOG_LEVELS = ("debug", "info", "warning", "error")
MIB = 2**20
GIB = 2**30


class ConfigError(MlxdError):
    """The configuration is invalid. `data` has `file`, `line`, `column` and `key` if known."""

    code = "config_invalid"
    exit_code = EXIT_USAGE
    default_hint = "Correct it, then check: mlxd run --check"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The settings of one model, from `[models."name"]`. Paths are absolute."""

    name: str = ""
    path: str | None = setting("string", None, "Folder of the model.")
    repo: str | None = setting("string", None, "Hugging Face id of the model.")
    revision: str | None = setting("string", None, "Branch, tag or commit of `repo`.")
    adapter: str | None = setting(
        "string", None, "Folder of a LoRA adapter to load with the model."
    )
    draft: str | None = setting("string", None, "Smaller model for speculative decoding.")
    trust_remote_code: bool = setting("boolean", False, "Run Python code from the model's folder.")
    keep_alive_s: float | None = setting(
        "keep-alive", None, 'Seconds in memory after the last use, or "forever".'
    )
    pin: bool = setting("boolean", False, "Never evict the model to make room for another.")


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting with its default. Durations are in seconds, sizes in bytes."""

    default_model: str = setting("string", "pocket", "Model for requests that name none.")
    preload: bool = setting("boolean", True, "Load the default model when the daemon starts.")
    keep_alive_s: float = setting(
        "keep-alive", 1800.0, 'Seconds a model stays in memory after its last use, or "forever".'
    )
    model_dirs: tuple[str, ...] = setting(
        "strings", (), "Folders of models, in addition to the Hugging Face cache."
    )
    log_level: str = setting(
        "string", "info", "Least severe level that is logged.", choices=LOG_LEVELS
    )
    log_text: bool = setting("boolean", False, "Log the text of prompts and answers.")
    conversations: bool = setting("boolean", True, "Store conversations.")
    http: bool = setting("boolean", False, "`mlxd install` installs the HTTP bridge too.")
    http_port: int = setting("integer", 6593, "TCP port of the HTTP bridge.", minimum=0)
    http_hosts: tuple[str, ...] = setting(
        "strings", (), "Host names that the HTTP bridge serves, besides localhost."
    )
    http_origins: tuple[str, ...] = setting(
        "strings", (), "Origins of web pages that may use the HTTP bridge."
    )
    memory_budget_bytes: int | None = setting(
        "bytes", None, "Memory for weights and KV caches. Default: measured.", minimum=MIB
    )
    prefix_cache_memory_bytes: int | None = setting(
        "bytes",
        None,
        "Memory for cached prompts. 0 disables the cache. Default: a fifth of the memory budget.",
        minimum=0,
    )
    prefix_cache_disk_bytes: int = setting(
        "bytes", 8 * GIB, "Disk space for cached prompts. 0 disables the cache.", minimum=0
    )
    max_message_bytes: int = setting("bytes", 32 * MIB, "Size limit of a message.", minimum=4096)
    max_depth: int = setting("integer", 64, "Nesting limit of a message.", minimum=8)
    max_requests_per_connection: int = setting(
        "integer", 64, "Limit of concurrent requests per connection.", minimum=1
    )
    max_connections: int = setting("integer", 2048, "Limit of concurrent connections.", minimum=1)
    max_queue: int = setting(
        "integer", 256, "Limit of requests that wait for the engine.", minimum=1
    )
    message_timeout_s: float = setting(
        "seconds",
        30.0,
        "Seconds until a connection with an incomplete message is closed.",
        minimum=0.1,
    )
    drain_s: float = setting(
        "seconds", 15.0, "Seconds to wait for running requests when the daemon stops.", minimum=0
    )
    engine_progress_timeout_s: float = setting(
        "seconds", 120.0, "Seconds without progress after which the engine is replaced.", minimum=1
    )
    upgrade_check_s: float = setting(
        "seconds",
        30.0,
        "Seconds between checks for an upgraded mlxd. 0 disables them.",
        minimum=0,
    )
    residency_refresh_ms: int = setting(
        "integer",
        1000,
        "On macOS, milliseconds between requests to keep weights resident. 0 disables them.",
        minimum=0,
    )
    prevent_sleep: bool = setting(
        "boolean",
        True,
        "On macOS, prevent idle sleep while requests, downloads or conversions run.",
    )
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def process_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return `environ` and the variables of `[environment]` that it does not have."""
        return {**self.environment, **environ}


def _table(kind: type) -> dict[str, Setting]:
    return {
        item.name: Setting(name=item.name, default=item.default, **item.metadata)
        for item in fields(kind)
        if item.metadata
    }


SETTINGS: dict[str, Setting] = _table(Config)
MODEL_SETTINGS: dict[str, Setting] = _table(ModelConfig)
TABLES = ("models", "aliases", "environment")


def load_config(
    paths: Paths,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration for these paths, this environment and these options.

    `overrides` maps setting names to values. None means that the option was not given.

    Raises:
        ConfigError: with the file or variable, the line and column if known, and what to write.
    """
    env = os.environ if environ is None else environ
    values = read_config_file(paths.config_file)
    values.update(_from_environment(env))
    for name, value in (overrides or {}).items():
        if value is not None:
            values[name] = _checked(SETTINGS[name], value, f"--{name.replace('_', '-')}")
    return Config(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for entry in SETTINGS.values():
        if text := environ.get(entry.variable):
            try:
                found[entry.name] = entry.parse(text)
            except BadValue as exc:
                raise ConfigError(
                    f"The variable {entry.variable} must be {exc}, not {text!r}.",
                    hint=f"Correct or unset {entry.variable}.",
                    data={"key": entry.variable},
                ) from None
    return found


def _checked(entry: Setting, value: Any, where: str) -> Any:
    try:
        return entry.check(value)
    except BadValue as exc:
        raise ConfigError(f"{where} must be {exc}, not {value!r}.") from None


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the checked settings of `config.toml`, or none if the file does not exist.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {exc.start}).", data={"file": str(path)}
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.") from exc
    return _File(path, text).settings()


def check_config_text(path: Path, text: str) -> dict[str, Any]:
    """Return the settings of a text for `config.toml`. Raises ConfigError."""
    return _File(path, text).settings()


_POSITION = re.compile(r"\s*\(at line (\d+), column (\d+)\)\s*$")


@dataclass(frozen=True, slots=True)
class _File:
    """The text of a `config.toml`: checks it, and reports the lines of mistakes."""

    path: Path
    text: str

    def settings(self) -> dict[str, Any]:
        raw = self.parse()
        known = [*SETTINGS, *TABLES]
        values: dict[str, Any] = {}
        for key, value in raw.items():
            if key not in known:
                raise self.unknown((), key, known)
            if key in SETTINGS:
                values[key] = self.check(SETTINGS[key], (), value)
        values["models"] = self.models(raw)
        values["aliases"] = self.strings(raw, "aliases")
        values["environment"] = self.strings(raw, "environment")
        self.check_aliases(values["aliases"])
        return values

    def parse(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as exc:
            line, column = _error_position(str(exc), self.text)
            reason = _POSITION.sub("", str(exc)).replace(" (at end of document)", "")
            raise ConfigError(
                f"{self.path}, line {line}, column {column}: {reason}.",
                hint="Correct that line. TOML in a page: https://toml.io",
                data={"file": str(self.path), "line": line, "column": column},
            ) from None

    def models(self, raw: Mapping[str, Any]) -> dict[str, ModelConfig]:
        table = self.table(raw, "models")
        return {name: self.model(name, entry) for name, entry in table.items()}

    def model(self, name: str, entry: Any) -> ModelConfig:
        if not isinstance(entry, dict):
            raise self.error(("models",), name, f"must be a table: [models.{_quoted(name)}]")
        values: dict[str, Any] = {}
        for key, value in entry.items():
            if key not in MODEL_SETTINGS:
                raise self.unknown(("models", name), key, MODEL_SETTINGS)
            values[key] = self.check(MODEL_SETTINGS[key], ("models", name), value)
        if values.get("path") and values.get("repo"):
            raise self.error(("models", name), "repo", "cannot be given together with path")
        for key in ("path", "adapter"):
            if key in values:
                values[key] = self.absolute(values[key])
        return ModelConfig(name=name, **values)

    def absolute(self, path: str) -> str:
        """A relative path in the file is relative to the file's folder."""
        return os.path.abspath(self.path.parent / Path(os.path.expanduser(path)))

    def strings(self, raw: Mapping[str, Any], table_name: str) -> dict[str, str]:
        table = self.table(raw, table_name)
        for key, value in table.items():
            if not isinstance(value, str) or "\0" in value:
                raise self.error((table_name,), key, "must be a string")
        return table

    def table(self, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
        table = raw.get(name, {})
        if not isinstance(table, dict):
            raise self.error((), name, f"must be a table: [{name}]")
        return table

    def check_aliases(self, aliases: Mapping[str, str]) -> None:
        for alias in aliases:
            seen, name = {alias}, aliases[alias]
            while name in aliases:
                if name in seen:
                    raise self.error(("aliases",), alias, "leads back to itself")
                seen.add(name)
                name = aliases[name]

    def check(self, entry: Setting, table: tuple[str, ...], value: Any) -> Any:
        try:
            return entry.check(value)
        except BadValue as exc:
            raise self.error(table, entry.name, f"must be {exc}, not {value!r}") from None

    def unknown(self, table: tuple[str, ...], key: str, known: Iterable[str]) -> ConfigError:
        near = difflib.get_close_matches(key, list(known), n=1)
        hint = (
            f"Did you mean {near[0]}?" if near else "See the names of all settings: mlxd run --help"
        )
        return self.error(table, key, "is not a setting", hint)

    def error(self, table: tuple[str, ...], key: str, problem: str, hint: str = "") -> ConfigError:
        name = ".".join(_quoted(part) for part in (*table, key))
        line = line_of(self.text, table, key)
        where = f"{self.path}, line {line}" if line else str(self.path)
        return ConfigError(
            f"{where}: {name} {problem}.",
            hint=hint,
            data={"file": str(self.path), "line": line, "column": None, "key": name},
        )


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


def _error_position(message: str, text: str) -> tuple[int, int]:
    """The parser names a position, or says `at end of document`; both count from 1."""
    if match := _POSITION.search(message):
        return int(match[1]), int(match[2])
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


def line_of(text: str, table: tuple[str, ...], key: str) -> int | None:
    """Return the line (from 1) that gives `key` in `table`, or opens `table.key`. None: unknown."""
    wanted = (*table, key)
    current: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            current = found = _key_path(stripped)
        else:
            found = (*current, *_key_path(stripped.partition("=")[0] + "= 0"))
        if found[: len(wanted)] == wanted:
            return number
    return None


def _key_path(line: str) -> tuple[str, ...]:
    """Return the keys that one line of TOML opens: `[a."b"]` gives a and b."""
    try:
        inner: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ("\0",)  # a line inside a multi-line value: equals no key
    path: list[str] = []
    while isinstance(inner, dict) and inner:
        name = next(iter(inner))
        path.append(name)
        inner = inner[name]
    return tuple(path)
