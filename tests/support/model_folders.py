"""Creates model folders from the built-in model: copies, adapters and other weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import _get_classes

from support.engine_process import POCKET

LORA = {"rank": 4, "scale": 8.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}


def copy_of_pocket(folder: Path) -> dict[str, Any]:
    """Copy the built-in model. Returns its reference for the engine."""
    shutil.copytree(POCKET, folder)
    return {"name": folder.name, "path": str(folder)}


def bare_model(folder: Path) -> Path:
    """Create a folder with the files of a complete model, but without tensors."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    header = json.dumps({"__metadata__": {"format": "mlx"}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def random_weights(folder: Path, seed: int = 5) -> dict[str, Any]:
    """Copy the built-in model with random weights."""
    ref = copy_of_pocket(folder)
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    mx.random.seed(seed)
    noise = {name: mx.random.normal(array.shape) * 0.05 for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), noise, metadata={"format": "mlx"})
    return ref


def make_adapter(folder: Path, seed: int, *, strength: float = 0.3) -> str:
    """Write a LoRA adapter with random weights, which changes the output of pocket."""
    model, _ = load(str(POCKET))
    model.freeze()
    linear_to_lora_layers(model, 4, LORA)
    mx.random.seed(seed)
    weights = {
        name: mx.random.normal(array.shape) * (strength / array.shape[0])
        for name, array in tree_flatten(model.trainable_parameters())
    }
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": LORA}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


KINDS: dict[str, dict[str, Any]] = {
    # Layers with sliding windows of 32 tokens between full-attention layers: a rotating cache.
    "rotating": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "sliding_window": 32,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    },
    # Convolutions beside attention: a cache with state instead of positions.
    "hybrid": {
        "model_type": "lfm2",
        "num_hidden_layers": 4,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 96,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    # Chunked attention: a cache that mlx-lm cannot batch.
    "chunked": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "num_hidden_layers": 4,
            "attention_chunk_size": 32,
            "intermediate_size_mlp": 96,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 5,
            "use_qk_norm": True,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "attention_bias": False,
        },
    },
}
SHARED = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def small_model(folder: Path, kind: str, seed: int = 3) -> dict[str, Any]:
    """Write a small model of another architecture, with pocket's tokenizer and random weights."""
    ref = copy_of_pocket(folder)
    config = {**SHARED, **KINDS[kind]}
    if nested := config.get("text_config"):
        config["text_config"] = {**SHARED, **nested}
    (folder / "config.json").write_text(json.dumps(config))
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    mx.random.seed(seed)
    weights = {
        name: mx.random.normal(array.shape) * 0.15
        for name, array in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return ref
