"""Reads context length and KV cache size from `config.json`. Nothing else reads them. Pure."""

from __future__ import annotations

import math
from typing import Any

CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
CONTEXT_MAX_TOKENS = 2**40
"""Larger numbers are placeholders: transformers writes 10^30 for "unknown"."""

Settings = dict[str, Any]


def text_config(config: Settings) -> Settings:
    """Return the part of the configuration that describes the language model."""
    for key in ("text_config", "language_config", "llm_config"):
        if isinstance(nested := config.get(key), dict):
            return {**config, **nested}
    return config


def context_tokens(config: Settings) -> int | None:
    """Return the context length in tokens, or None if the configuration does not state it."""
    inner = text_config(config)
    for key in CONTEXT_KEYS:
        if (tokens := _count(inner.get(key))) and tokens <= CONTEXT_MAX_TOKENS:
            scaling = inner.get("rope_scaling") or inner.get("rope_parameters")
            return _scaled(tokens, scaling)
    return None


def _scaled(tokens: int, scaling: Any) -> int:
    """Return the context with RoPE scaling if the configuration states the unscaled one.

    Most configurations state the scaled length. Those of Qwen's YaRN recipe state both separately.
    """
    if not isinstance(scaling, dict):
        return tokens
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if original != tokens or isinstance(factor, bool) or not isinstance(factor, (int, float)):
        return tokens
    if not (math.isfinite(factor) and 1 < factor <= CONTEXT_MAX_TOKENS / tokens):
        return tokens
    return int(tokens * factor)


def kv_bytes_per_token(config: Settings, item_bytes: int) -> int | None:
    """Return the KV cache bytes of one token: 2 (K and V) x layers x KV heads x head size x item.

    An upper bound for models with sliding windows. None if the configuration does not state it.
    """
    inner = text_config(config)
    layers = _first(inner, LAYER_KEYS)
    heads = _first(inner, ("num_attention_heads", "n_head"))
    kv_heads = _first(inner, ("num_key_value_heads",)) or heads
    head_dim = _first(inner, ("head_dim",))
    hidden = _first(inner, ("hidden_size", "n_embd"))
    if head_dim is None and hidden is not None and heads is not None:
        head_dim = hidden // heads
    if layers is None or kv_heads is None or head_dim is None:
        return None
    return 2 * layers * kv_heads * head_dim * item_bytes


def layers(config: Settings) -> int:
    """Return the largest number of layers in the configuration, or 0 if it has none."""
    return max(_first(config, LAYER_KEYS) or 0, _first(text_config(config), LAYER_KEYS) or 0)


def _first(config: Settings, keys: tuple[str, ...]) -> int | None:
    return next((count for key in keys if (count := _count(config.get(key)))), None)


def _count(value: Any) -> int | None:
    """Return `value` if it is a positive integer, otherwise None."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if ok else None
