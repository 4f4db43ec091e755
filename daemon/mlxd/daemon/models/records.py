"""What is known about a model: the reference the engine loads, and the record people read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model that was found, as the engine is told of it. Paths are absolute.

    `keep_alive_s` is what the configuration says about this model; -1 means forever.
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
        """Return the reference as it goes to the engine."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadedAs:
    """How the engine may know a model: by its name, or by its folder and adapter."""

    name: str
    path: str
    adapter: str | None = None

    def to_map(self) -> dict[str, Any]:
        """Return the parameters of the engine's `unload`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of this machine. `problem` says why it cannot be loaded; None: it can.

    `source` is builtin, config, folder, imported or cache; `bytes` counts the weights; `bits` is
    None where the weights are not quantised; `parameters` is counted from the weights' headers.
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
        """Return the record as it goes over the wire."""
        return asdict(self)
