"""Settings that the front passes to the engine on its command line."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mlxd.daemon.engine.models.memory import PSI_FILE


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Limits and paths. None: determined from the machine."""

    memory_budget_bytes: int | None = None
    keep_alive_s: float = 1800.0
    max_sequences: int = 32
    prefix_cache_memory_bytes: int | None = None
    prefix_cache_disk_bytes: int = 4 * 2**30
    prefix_cache_dir: str | None = None
    findings_dir: str | None = None
    """Where the engine remembers what it measured of models."""
    kernels_dir: str | None = None
    """Folder for the kernels that MLX compiles for the CPU."""
    empty_exit_s: float = 10.0
    pressure_file: str = PSI_FILE
    """File in which Linux reports how long tasks waited for memory."""
    log_text: bool = False
    residency_refresh_ms: int = 1000
    """How often MLX asks macOS to keep the weights resident. 0: never."""

    @classmethod
    def from_json(cls, text: str) -> EngineOptions:
        """Parse the output of `to_json`.

        Unknown keys raise, because both sides have the same version.
        """
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Return the options as one line of JSON."""
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__})
