"""A model's reference, which the engine loads, and its record, which people read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model to load, as the front sends it to the engine. Paths are absolute.

    `keep_alive_s` is the configured time. -1 means forever.
    """

    name: str
    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    keep_alive_s: float | None = None
    pin: bool = False
    adapter: str | None = None
    draft: str | None = None
    draft_name: str | None = None

    def to_map(self) -> dict[str, Any]:
        """Return the reference in the form that the engine receives."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadedAs:
    """How the engine may know a loaded model: by its name, or by its folder and adapter."""

    name: str
    path: str
    adapter: str | None = None

    def to_map(self) -> dict[str, Any]:
        """Return the parameters of the engine's `unload`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of this machine. `problem` says why it cannot be loaded, or is None.

    `source` is builtin, config, folder, imported or cache. `bytes` is the size of the weights.
    `bits` is None if they are not quantised. `parameters` is counted from their headers.
    """

    name: str
    path: str
    source: str
    bytes: int = 0
    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    context_tokens: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    chat_template: bool = False
    revision: str | None = None
    problem: str | None = None

    def to_map(self) -> dict[str, Any]:
        """Return the record in its wire form."""
        return asdict(self)
