"""The interface to the device on which MLX computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol


class Backend(Protocol):
    """One device. Only the compute thread calls these methods."""

    def start(self, budget_bytes: int) -> None:
        """Prepare the device before any model is loaded.

        `budget_bytes` is the memory for models.
        """

    def describe(self) -> dict[str, Any]:
        """Return `device`, `backend` and `blas` for `status`."""

    def memory_info(self) -> dict[str, Any]:
        """Return MLX's data about the device's memory, or an empty map if the device has none of
        its own."""

    def before_pass(self, tokens: int, largest_matrix: int) -> None:
        """Prepare for a pass of `rows` tokens over a model whose largest matrix has this size."""

    def after_prefill(self) -> None:
        """Do what is due after a prefill chunk."""

    @property
    def warm_up_tokens(self) -> int:
        """Tokens of the discarded prefill pass after a load, so that kernels are built by then."""

    @property
    def chunk_step_tokens(self) -> int:
        """Prefill chunks are multiples of so many tokens."""

    def overlap(self, step_s: float) -> bool:
        """Return whether a step of `step_s` seconds starts before the last one's tokens are
        sent."""

    def original(self) -> AbstractContextManager[None] | None:
        """Return a context in which MLX's own operations are used; None: they always are."""

    def housekeeping(self) -> None:
        """Do maintenance. Called every few seconds."""

    def idle(self) -> None:
        """Return freed memory to the system."""
