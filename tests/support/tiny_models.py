"""Tiny models of every architecture in mlx-lm: configurations, and folders with random weights.

A configuration is made from the fields of the architecture's `ModelArgs`: most architectures name
their sizes alike. `SPECIAL` has what an architecture needs beyond that.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pkgutil
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.models
from mlx.utils import tree_map
from mlx_lm.utils import _get_classes, save_model

from support.engine_process import POCKET

VOCABULARY = 512
"""That of the built-in model, whose tokenizer the folders have."""
LEFT_OUT = {
    "bitnet": "its kernel is Metal only",
    "muse_spark": "its kernel is Metal only",
    "olmo": "its module ends the process where ai2-olmo is not installed",
    "prism_hadamard_qwen35": "its weights are packed, and cannot be random",
}

SIZES: dict[str, Any] = {
    # Names of Hugging Face's configurations, and the older ones of single architectures.
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "model_dim", "hidden_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer"), 4),
    **dict.fromkeys(("num_transformer_layers",), 4),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_kv_heads"), 2),
    **dict.fromkeys(("swa_num_attention_heads", "num_swa_attention_heads"), 4),
    **dict.fromkeys(("swa_num_key_value_heads", "num_swa_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "hidden_size_per_head", "swa_head_dim"), 16),
    **dict.fromkeys(("v_head_dim", "swa_v_head_dim", "mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_hidden_size"), 96),
    **dict.fromkeys(("ff_intermediate_size", "shared_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_expert_intermediate_size", "share_expert_dim"), 32),
    **dict.fromkeys(("intermediate_size_mlp", "expert_ffn_hidden_size"), 48),
    **dict.fromkeys(("vocab_size", "num_vocab", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 4096),
    **dict.fromkeys(("max_sequence_length", "block_size", "model_max_length"), 4096),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("moe_num_experts",), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("num_shared_experts", "n_shared_experts", "num_shared_expert"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "decoder_sparse_step"), 1),
    **dict.fromkeys(("moe_layer_freq",), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 32),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim"), 16),
    **dict.fromkeys(("sliding_window", "window_size", "sliding_window_size"), 32),
    **dict.fromkeys(("attention_window_size",), 32),
    **dict.fromkeys(("conv_L_cache", "conv_kernel", "conv1d_width", "mamba_d_conv"), 3),
    **dict.fromkeys(("linear_conv_kernel_dim", "short_conv_kernel_size"), 3),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_n_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim"), 16),
    **dict.fromkeys(("decay_low_rank_dim",), 16),
    **dict.fromkeys(("index_head_dim",), 32),
    **dict.fromkeys(("index_n_heads",), 2),
    **dict.fromkeys(("index_topk",), 64),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "norm_eps", "layer_norm_epsilon"), 1e-6),
    **dict.fromkeys(("layernorm_epsilon", "norm_epsilon"), 1e-6),
    **dict.fromkeys(("rope_theta", "rotary_emb_base", "swa_rope_theta"), 10000.0),
    **dict.fromkeys(("rotary_pct", "partial_rotary_factor"), 0.5),
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias", "conv_bias"), False),
    **dict.fromkeys(("use_conv_bias", "mamba_proj_bias", "norm_topk_prob"), False),
    **dict.fromkeys(("rope_scaling",), None),
    **dict.fromkeys(("tie_word_embeddings",), True),
    **dict.fromkeys(("use_qk_norm", "qk_norm"), True),
    "mlp_only_layers": [],
    "routed_scaling_factor": 1.0,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "query_pre_attn_scalar": 16,
}
SLIDING = ["sliding_attention", "full_attention"] * 2
LINEAR = ["linear_attention", "full_attention"] * 2
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {
    "type": "yarn",
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 1024,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
LONG_ROPE = {
    "type": "longrope",
    "original_max_position_embeddings": 4096,
    "short_mscale": 1.0,
    "long_mscale": 1.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0] * 8,
}
GRANITE = {
    "logits_scaling": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
}
LONGCAT = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "zero_expert_num": 2,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "num_layers": 2,
}
KDA = {
    "kda_layers": [1, 3],
    "full_attn_layers": [2, 4],
    "num_heads": 4,
    "head_dim": 16,
    "short_conv_kernel_size": 4,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "afm7": {"num_kv_reuse_layers": 2},
    "afmoe": {"layer_types": SLIDING},
    "apertus": {"post_norm": True},
    "baichuan_m1": {
        "sliding_window_layers": [1, 3],
        "conv_window": 2,
        "tie_word_embeddings": False,
    },
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_v3": {"layer_group_size": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek": {"scoring_func": "softmax"},
    "deepseek_v2": {"rope_scaling": YARN, "topk_method": "greedy"},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"layer_types": SLIDING, "is_moe_layer": [False, True, True, True]},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gear": {"layer_types": SLIDING},
    "gemma3_text": {"sliding_window_pattern": 2},
    "gemma3": {"text_config": {"sliding_window_pattern": 2}},
    "gemma4_text": {
        "sliding_window_pattern": 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 16,
        "global_head_dim": 16,
    },
    "gemma3n": {
        "text_config": {
            "num_kv_shared_layers": 2,
            "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": 30.0,
            "layer_types": SLIDING,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
            "hidden_size_per_layer_input": 16,
            "altup_num_inputs": 2,
            "altup_coef_clip": 120.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 8,
        }
    },
    "glm_moe_dsa": {"rope_parameters": ROPE},
    "gpt_oss": {"layer_types": SLIDING},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "granitemoehybrid": {**GRANITE, "layer_types": ["mamba", "attention"] * 2},
    "hunyuan": {
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "alpha": 4.0, "factor": 1.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_expand": 2,
    },
    "kimi_linear": {"linear_attn_config": KDA},
    "kimi_k3": {"text_config": {"linear_attn_config": KDA}},
    "lfm2": {
        "block_dim": 64,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 96,
        "layer_types": ["conv", "full_attention"] * 2,
    },
    "lfm2_moe": {"use_expert_bias": True, "layer_types": ["conv", "full_attention"] * 2},
    "llama4": {
        "text_config": {
            "num_hidden_layers": 4,
            "attention_chunk_size": 32,
            "interleave_moe_layer_step": 2,
            "num_experts_per_tok": 1,
            "use_qk_norm": True,
        }
    },
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0]},
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": {**LONGCAT, "ngram_vocab_size_ratio": 2},
    "mamba2": {"time_step_limit": (0.001, 100.0), "num_heads": 4, "intermediate_size": 64},
    "mellum": {
        "layer_types": SLIDING,
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
    },
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
    },
    "minicpm": {"dim_model_base": 64, "scale_depth": 1.4, "scale_emb": 1.0},
    "minicpm3": {
        "dim_model_base": 64,
        "scale_depth": 1.4,
        "scale_emb": 1.0,
        "rope_scaling": LONG_ROPE,
    },
    "minimax_m3_vl": {
        "text_config": {
            "moe_layer_freq": [0, 1, 1, 1],
            "dense_intermediate_size": 96,
            "sparse_attention_config": {
                "sparse_num_index_heads": 2,
                "sparse_index_dim": 16,
                "sparse_block_size": 8,
                "sparse_topk_blocks": 2,
                "sparse_local_block": 1,
                "sparse_attention_freq": [0, 1, 1, 1],
            },
        }
    },
    "ministral3": {"rope_parameters": YARN, "layer_types": SLIDING},
    "mistral4": {"rope_parameters": YARN},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
        ]
        * 4
    },
    "nemotron_h": {"hybrid_override_pattern": "M*M-"},
    "olmo3": {"layer_types": SLIDING},
    "olmo_hybrid": {"linear_allow_neg_eigval": True, "layer_types": LINEAR},
    "openelm": {
        "ffn_dim_divisor": 16,
        "num_query_heads": [4] * 4,
        "num_kv_heads": [2] * 4,
        "ffn_multipliers": [1.0] * 4,
    },
    "plamo": {"n_shared_head": 2},
    "plamo2": {"full_attention_idx": [1, 3], "mamba_step": 2},
    "plamo3": {"sliding_window_pattern": 2},
    "recurrent_gemma": {
        "logits_soft_cap": 30.0,
        "block_types": ["recurrent", "attention"],
    },
    "smollm3": {"no_rope_layer_interval": 2},
    "spark2_5": {
        "layer_types": SLIDING,
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
    },
    "stablelm": {"partial_rotary_factor": 0.5},
    "step3p5": {"num_attention_groups": 2, "layer_types": SLIDING},
    "phi3small": {"dense_attention_every_n_layers": 2, "gegelu_limit": 20.0},
    "phimoe": {"rope_scaling": LONG_ROPE},
}
"""What an architecture needs beyond `SIZES`."""
NESTED = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "lfm2-vl": "lfm2",
    "mistral3": "llama",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "kimi_vl": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
}
"""Architectures whose `text_config` is another one's configuration."""
INNER_CLASSES = ("TextConfig", "TextArgs", "TextModelArgs")


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2, one KV head": ("gemma2", {"num_key_value_heads": 1}),
    "gemma2, as many KV heads": ("gemma2", {"num_key_value_heads": 4}),
    "llama, dynamic RoPE": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "internlm2, dynamic RoPE": ("internlm2", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "internlm3, dynamic RoPE": ("internlm3", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "llama, YaRN": ("llama", {"rope_scaling": YARN}),
    "llama, linear RoPE": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama, sliding window": ("llama", {"layer_types": SLIDING}),
    "qwen3, one KV head": ("qwen3", {"num_key_value_heads": 1}),
}
"""Further configurations: a name, the architecture, and what differs."""


def architectures() -> list[str]:
    """Return the model types that the installed mlx-lm has."""
    names = [module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)]
    return sorted(name for name in names if name not in LEFT_OUT and _has_model(name))


def configurations() -> dict[str, dict[str, Any]]:
    """Return a tiny configuration of every architecture, and the variants."""
    found = {name: config_of(name) for name in architectures()}
    return found | {name: config_of(base, **changes) for name, (base, changes) in VARIANTS.items()}


def _has_model(name: str) -> bool:
    module = importlib.import_module(f"mlx_lm.models.{name}")
    return hasattr(module, "Model") and hasattr(module, "ModelArgs")


def config_of(architecture: str, **changes: Any) -> dict[str, Any]:
    """Return a tiny configuration of an architecture."""
    module = importlib.import_module(f"mlx_lm.models.{architecture}")
    config = {"model_type": architecture, "eos_token_id": 2, "torch_dtype": "float32"}
    config |= _sizes(module.ModelArgs)
    special = dict(SPECIAL.get(architecture, {}))
    nested = special.pop("text_config", {})
    if "text_config" in fields_of(module.ModelArgs):
        config["text_config"] = {**_inner(module, architecture), **nested}
    return {**config, **special, **changes}


def _inner(module: Any, architecture: str) -> dict[str, Any]:
    for name in INNER_CLASSES:
        if hasattr(module, name):
            return {"model_type": architecture, **_sizes(getattr(module, name))}
    outer = config_of(NESTED[architecture])
    inner: dict[str, Any] = outer.get("text_config", outer)
    return inner


def fields_of(kind: Any) -> dict[str, bool]:
    """Return the names of the fields of a dataclass, and whether each is required."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(kind)
    }


def _sizes(kind: Any) -> dict[str, Any]:
    return {name: SIZES[name] for name in fields_of(kind) if name in SIZES}


def build(config: dict[str, Any], seed: int = 3) -> Any:
    """Return a model with random weights, large enough that tokens matter for the next one."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(copy.deepcopy(config)))
    mx.random.seed(seed)
    model.update(tree_map(_noise, model.parameters()))
    model.eval()
    return model


def _noise(array: mx.array) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    if array.ndim == 1:  # norms and biases stay near what they were
        return array + 0.1 * mx.random.normal(array.shape)
    return mx.random.normal(array.shape) * 0.15


def write(folder: Path, config: dict[str, Any], seed: int = 3) -> dict[str, Any]:
    """Write a tiny model as a folder with pocket's tokenizer; return its reference."""
    shutil.copytree(POCKET, folder)
    model = build(config, seed)
    (folder / "model.safetensors").unlink()
    save_model(folder, model, donate_model=False)
    (folder / "config.json").write_text(json.dumps(config))
    return {"name": folder.name, "path": str(folder)}
