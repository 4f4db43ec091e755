"""Metal: MLX needs no replacements, but limits."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

KV_STEP_TOKENS = 256
"""`KVCache.step` of mlx-lm. Chunks of this size keep the number of shapes, and kernels, small."""
CACHE_SHARE = 0.05
"""Of the memory budget, for freed buffers that MLX keeps. Its own limit is nearly the whole
working set, and the memory pressure from it would evict models."""
CACHE_LEAST_BYTES = 64 * 2**20


def cache_limit_bytes(budget_bytes: int) -> int:
    """Return how many bytes of freed buffers MLX may keep."""
    return max(CACHE_LEAST_BYTES, int(budget_bytes * CACHE_SHARE))


class GpuBackend:
    """An Apple GPU. The wired memory and freed buffers are limited."""

    warm_up_tokens = KV_STEP_TOKENS
    chunk_step_tokens = KV_STEP_TOKENS

    def start(self, budget_bytes: int) -> None:
        # Wiring more than the recommended working set has crashed whole machines.
        recommended = self.memory_info().get("max_recommended_working_set_size", budget_bytes)
        mx.set_wired_limit(min(budget_bytes, int(recommended)))
        mx.set_cache_limit(cache_limit_bytes(budget_bytes))

    def describe(self) -> dict[str, Any]:
        return {"device": "gpu", "backend": "metal", "blas": ""}

    def memory_info(self) -> dict[str, Any]:
        return dict(mx.device_info())

    def before_pass(self, tokens: int, largest_matrix: int) -> None:
        """Nothing to prepare."""

    def after_prefill(self) -> None:
        # As in mlx-lm: a chunk's buffers fit no decoding step.
        mx.clear_cache()

    def overlap(self, step_s: float) -> bool:
        return True

    def original(self) -> None:
        """Nothing is replaced."""

    def housekeeping(self) -> None:
        """Nothing is due."""

    def idle(self) -> None:
        mx.clear_cache()
