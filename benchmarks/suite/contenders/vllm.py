"""The contender vllm-mlx, if it can be installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite import places
from suite.contenders.base import HttpContender, free_port
from suite.traffic import Call
from suite.wire import OpenAiCall


class VllmMlx(HttpContender):
    name = "vllm-mlx"

    def start(self) -> None:
        self.port = free_port()
        command = [str(Path(places.vllm_python()).with_name("vllm-mlx")), "serve"]
        command += [str(self.model.path), "--port", str(self.port), "--continuous-batching"]
        home = places.CACHE / "vllm-home"  # it caches prompts below its user's home
        home.mkdir(exist_ok=True)
        env = {**places.mlx_environ(self.model.is_small), "HOME": str(home)}
        self.launch(command, env, places.CACHE / "vllm-mlx.log")

    def call(self, prompt: str, max_tokens: int, **params: Any) -> Call:
        return OpenAiCall(self.port, prompt, max_tokens, model=str(self.model.path), **params)
