"""A small random model: real MLX, real caches, no weights to load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import qwen3

from mlxd.daemon.engine.backend.cpu import exp


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """Return a Qwen3 of two layers with random float32 weights and a vocabulary of 96."""
    mx.random.seed(11)
    model = qwen3.Model(
        qwen3.ModelArgs(
            model_type="qwen3",
            hidden_size=64,
            num_hidden_layers=2,
            intermediate_size=96,
            num_attention_heads=4,
            rms_norm_eps=1e-6,
            vocab_size=96,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            rope_theta=1e6,
            head_dim=16,
            tie_word_embeddings=True,
        )
    )
    mx.eval(model.parameters())
    return model


@pytest.fixture
def restore_exponentials() -> Iterator[None]:
    """Remove from all models the functions of `exp` that a test installs."""
    yield
    mx.fast.scaled_dot_product_attention = exp._attention
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and hasattr(module, "swiglu"):
            module.__dict__["swiglu"] = exp._swiglu
