"""What the front decides about the engine, handed over on its command line."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mlxd.daemon.engine.models.memory import PSI_FILE


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and places. None means: decide by the machine."""

    memory_budget_bytes: int | None = None
    keep_alive_s: float = 1800.0
    max_sequences: int = 32
    prefix_cache_memory_bytes: int | None = None
    prefix_cache_disk_bytes: int = 4 * 2**30
    prefix_cache_dir: str | None = None
    findings_dir: str | None = None
    """Where the engine remembers what it measured of models."""
    kernels_dir: str | None = None
    """Where MLX keeps what it has compiled for the CPU."""
    empty_exit_s: float = 10.0
    pressure_file: str = PSI_FILE
    """Where Linux says how long tasks waited for memory."""
    log_text: bool = False

    @classmethod
    def from_json(cls, text: str) -> EngineOptions:
        """Read what `to_json` wrote. Unknown keys raise: both sides are of one version."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return the options as one line."""
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__})
