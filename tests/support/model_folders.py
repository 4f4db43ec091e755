"""Model folders made of the built-in one: copies, adapters, other weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tuner.utils import linear_to_lora_layers

from support.engine_process import POCKET

LORA = {"rank": 4, "scale": 8.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}


def copy_of_pocket(folder: Path) -> dict[str, Any]:
    """Copy the built-in model; returns how the engine is told of it."""
    shutil.copytree(POCKET, folder)
    return {"name": folder.name, "path": str(folder)}


def random_weights(folder: Path, seed: int = 5) -> dict[str, Any]:
    """Copy the built-in model with weights that know nothing."""
    ref = copy_of_pocket(folder)
    weights = mx.load(str(folder / "model.safetensors"))
    mx.random.seed(seed)
    noise = {name: mx.random.normal(array.shape) * 0.05 for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), noise, metadata={"format": "mlx"})
    return ref


def make_adapter(folder: Path, seed: int, *, strength: float = 0.3) -> str:
    """Write a LoRA adapter with random weights that changes what pocket says."""
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
