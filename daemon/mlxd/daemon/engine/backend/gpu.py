"""Metal: MLX needs no replacements."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


class GpuBackend:
    """An Apple GPU. Only the wired memory is limited."""

    def start(self, budget_bytes: int) -> None:
        # Wiring more than the recommended working set has crashed whole machines.
        recommended = self.memory_info().get("max_recommended_working_set_size", budget_bytes)
        mx.set_wired_limit(min(budget_bytes, int(recommended)))

    def describe(self) -> dict[str, Any]:
        return {"device": "gpu", "backend": "metal", "blas": ""}

    def memory_info(self) -> dict[str, Any]:
        return dict(mx.device_info())

    def before_pass(self, tokens: int, largest_matrix: int) -> None:
        """Nothing to prepare."""

    def overlap(self, step_s: float) -> bool:
        return True

    def original(self) -> None:
        """Nothing is replaced."""

    def housekeeping(self) -> None:
        """Nothing is due."""

    def idle(self) -> None:
        """MLX's allocator returns memory itself."""
