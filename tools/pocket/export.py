"""Writes the checkpoint as a Hugging Face model folder.

python tools/pocket/export.py [--run tools/pocket/runs] [--to daemon/mlxd/daemon/models/pocket]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from model import Config, Pocket
from safetensors.torch import save_file
from tokenizer import SPECIAL
from tokenizers import Tokenizer

HERE = Path(__file__).parent
TARGET = HERE.parents[1] / "daemon" / "mlxd" / "daemon" / "models" / "pocket"

CHAT_TEMPLATE = """\
{%- set first = messages[0] -%}
{%- set system = first.content if first.role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|im_start|>system\\n' + system -}}
{%- if tools -%}
{{- ('\\n\\n' if system else '') + '<tools>' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '\\n{"name": ' + (function.name | tojson) + ', "arguments": {' -}}
{%- if function.parameters is defined and function.parameters.properties is defined -%}
{%- for name, about in function.parameters.properties.items() -%}
{{- (', ' if not loop.first else '') + (name | tojson) + ': ' + ((about.type or 'string') | tojson) -}}
{%- endfor -%}
{%- endif -%}
{{- '}}' + (' ' + function.description if function.description else '') -}}
{%- endfor -%}
{{- '\\n</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- if not loop.first -%}
{{- raise_exception('The system message comes first.') -}}
{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' + (message.content or '') -}}
{%- for tool_call in message.tool_calls or [] -%}
{%- if tool_call.function is defined -%}{%- set tool_call = tool_call.function -%}{%- endif -%}
{{- '<tool_call>\\n{"name": ' + (tool_call.name | tojson) + ', "arguments": ' -}}
{{- (tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson) -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking -%}
{{- '<think>\\n' -}}
{%- endif -%}
{%- endif -%}
"""


def model_config(config: Config, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **config.to_map(),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }


def tokenizer_config(config: Config) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": list(SPECIAL[1:7]),
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    ends = [tokenizer.token_to_id(mark) for mark in ("<|im_end|>", "<|endoftext|>")]
    return {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(run: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    config = Config(vocab_size=tokenizer.get_vocab_size())
    model = Pocket(config)
    model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["model"])
    save_file(model.exported(), target / "model.safetensors", metadata={"format": "mlx"})
    tokenizer.save(str(target / "tokenizer.json"))
    write_json(target / "config.json", model_config(config, tokenizer))
    write_json(target / "tokenizer_config.json", tokenizer_config(config))
    write_json(target / "generation_config.json", generation_config(tokenizer))
    size = sum(path.stat().st_size for path in target.iterdir() if path.is_file())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{target}: {parameters:,} parameters, {size:,} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs")
    parser.add_argument("--to", type=Path, default=TARGET)
    arguments = parser.parse_args()
    export(arguments.run, arguments.to)
