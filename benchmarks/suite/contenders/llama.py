"""llama.cpp's engine in llama-cpp-python's server.

Because the engine differs, compare overheads.
"""

from __future__ import annotations

import os
from typing import Any

from suite import places
from suite.contenders.base import LLAMA_CONTEXT, HttpContender, free_port
from suite.traffic import Call
from suite.wire import OpenAiCall


class LlamaServer(HttpContender):
    name = "llama.cpp server"

    def start(self) -> None:
        self.port = free_port()
        command = [places.llama_python(), "-m", "llama_cpp.server", "--port", str(self.port)]
        command += ["--model", str(self.model.gguf), "--n_ctx", str(LLAMA_CONTEXT)]
        command += ["--n_threads", str(os.cpu_count()), "--interrupt_requests", "false"]
        self.launch(command, dict(os.environ), places.CACHE / "llama-server.log")

    def call(self, prompt: str, max_tokens: int, **params: Any) -> Call:
        return OpenAiCall(self.port, prompt, max_tokens, **params)
