"""Writes `docs/configuration.md` from the table of settings: python -m mlxd.daemon.config_doc"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mlxd.daemon.config import MODEL_SETTINGS, SETTINGS
from mlxd.daemon.settings import FOREVER, KINDS, Setting

HEAD = """\
# Configuration

<!-- Made by `python -m mlxd.daemon.config_doc > docs/configuration.md`; a test keeps it true. -->

A setting is looked up as a flag of `mlxd run` or `mlxd start` (`--max-queue 10`), then as an
environment variable (`MLXD_MAX_QUEUE=10`), then in `config.toml` (`max_queue = 10`); else its
default holds. `mlxd doctor` says where `config.toml` is looked for: usually
`~/.config/mlxd/config.toml`, on macOS `~/Library/Application Support/mlxd/config.toml`.

A mistake in the file is an error with its line, never ignored. A daemon that runs already reads
it again with `mlxd restart`.

```toml
default_model = "qwen"
keep_alive_s = "forever"

[models."mlx-community/Qwen3-4B-4bit"]
pin = true

[models.mine]
path = "/data/models/mine"
adapter = "/data/adapters/mine"

[aliases]
qwen = "mlx-community/Qwen3-4B-4bit"

[environment]
HF_HOME = "/data/huggingface"
```
"""

TABLES = """\
## `[aliases]`

Short names: `qwen = "mlx-community/Qwen3-4B-4bit"`. An alias may lead to another one.

## `[environment]`

Variables that the daemon and its engine see, as `HF_HOME`, `HF_ENDPOINT` or `HTTPS_PROXY`. A
service sees no shell, so `mlxd install` copies those here that its shell has and this table has
not. A variable that is set where the daemon starts goes before this table.

## Places

Set in the environment only, for they say where the rest is found.

| variable | what | default on Linux |
|---|---|---|
| `MLXD_SOCKET` | the socket | `$XDG_RUNTIME_DIR/mlxd/mlxd.sock`, else in the state folder |
| `MLXD_CONFIG_DIR` | `config.toml` | `~/.config/mlxd` |
| `MLXD_STATE_DIR` | conversations, launcher | `~/.local/state/mlxd` |
| `MLXD_DATA_DIR` | converted models | `~/.local/share/mlxd` |
| `MLXD_CACHE_DIR` | kept prompts | `~/.cache/mlxd` |
| `MLXD_LOG_DIR` | logs | `~/.local/state/mlxd/log` |
"""


def reference() -> str:
    """Return the whole page."""
    return "\n".join(
        [
            HEAD,
            "## Settings\n",
            _table(SETTINGS.values()),
            '## `[models."name"]`\n',
            "Settings of one model, by its name or Hugging Face id; with `path` or `repo` also a\n"
            "name of your own. A relative path starts at the folder of `config.toml`.\n",
            _table(MODEL_SETTINGS.values()),
            TABLES,
        ]
    )


def _table(settings: Iterable[Setting]) -> str:
    rows = [
        f"| `{entry.name}` | {_kind(entry)} | {_shown(entry)} | {entry.doc} |" for entry in settings
    ]
    return "\n".join(
        ["| setting | value | default | what it does |", "|---|---|---|---|", *rows, ""]
    )


def _kind(entry: Setting) -> str:
    if entry.choices:
        return " · ".join(f"`{choice}`" for choice in entry.choices)
    least = f", at least {entry.minimum:.15g}" if entry.minimum else ""
    return KINDS[entry.kind].expected + least


def _shown(entry: Setting) -> str:
    value: Any = entry.default
    if value is None:
        return "–"
    if value == () or value == "":
        return "none"
    if entry.kind == "keep-alive" and value == FOREVER:
        return '`"forever"`'
    if entry.kind == "bytes":
        return f"`{_size(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _size(value: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value and value % size == 0:
            return f'"{value // size} {unit}"'
    return str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
