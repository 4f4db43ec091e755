"""A local model for `llm`, loaded by mlx-lm in the same process. LLM_MLX_MODEL is its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import llm


class InProcess(llm.Model):
    model_id = "mlx-in-process"
    can_stream = True

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        from mlx_lm import load, stream_generate

        model, tokenizer = load(os.environ["LLM_MLX_MODEL"])
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.prompt}], add_generation_prompt=True, tokenize=False
        )
        for piece in stream_generate(model, tokenizer, text, max_tokens=16):
            yield piece.text


@llm.hookimpl
def register_models(register: Any) -> None:
    register(InProcess())
