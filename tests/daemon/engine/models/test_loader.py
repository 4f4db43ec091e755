from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.findings import FindingsStore
from mlxd.daemon.engine.models.loader import Loader, largest_matrix
from mlxd.daemon.engine.models.probe import Prober
from support.engine_process import POCKET


def test_largest_matrix_counts_only_matrices() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 64), nn.RMSNorm(1000))
    assert largest_matrix(model) == 256


class Counting:
    """A model that counts the tokens of each pass."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.passes: list[int] = []

    def __call__(self, tokens: mx.array, cache: Any) -> mx.array:
        self.passes.append(tokens.shape[1])
        logits: mx.array = self._model(tokens, cache=cache)
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@pytest.mark.parametrize(("warm_up_tokens", "passes"), [(1, [1]), (256, [1, 256, 1])])
def test_a_loaded_model_has_run_a_chunk_and_on_a_gpu_a_step(
    warm_up_tokens: int, passes: list[int]
) -> None:
    prober = Prober(FindingsStore(None, "cpu"))
    loader = Loader(ModelRef("pocket", str(POCKET)), prober, warm_up_tokens=warm_up_tokens)
    assert not loader.advance()
    loader.model = counting = Counting(loader.model)
    while not loader.advance():
        pass
    assert counting.passes == passes
    assert loader.done_bytes == loader.total_bytes > 0
