"""The contender mlx_lm.server."""

from __future__ import annotations

from typing import Any

from suite import places
from suite.contenders.base import HttpContender, free_port
from suite.traffic import Call
from suite.wire import OpenAiCall


class MlxLmServer(HttpContender):
    name = "mlx_lm.server"

    def start(self) -> None:
        self.port = free_port()
        command = [places.mlx_python(), "-m", "mlx_lm", "server", "--port", str(self.port)]
        command += ["--model", str(self.model.path), "--log-level", "WARNING"]
        # Off by default, as in mlxd.
        command += ["--chat-template-args", '{"enable_thinking": false}']
        self.launch(
            command, places.mlx_environ(self.model.is_small), places.CACHE / "mlx_lm.server.log"
        )

    def call(self, prompt: str, max_tokens: int, **params: Any) -> Call:
        return OpenAiCall(self.port, prompt, max_tokens, model="default_model", **params)
