"""An engine alone in its own process, which is the upper limit for servers that use it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from suite import places
from suite.contenders.base import LLAMA_CONTEXT, Contender
from suite.traffic import Trace

HERE = Path(__file__).parent


class InProcess(Contender):
    name = "in-process mlx-lm"

    def start(self) -> None:
        worker = [places.mlx_python(), str(HERE / "inprocess_worker.py"), str(self.model.path)]
        self.launch(worker, places.mlx_environ(small=False))

    def launch(self, command: list[str], env: dict[str, str]) -> None:
        """Start the worker and wait until its model is loaded."""
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == {"ready": True}

    def run(self, prompts: list[str], max_tokens: int) -> list[Trace]:
        found = self.order(prompts=prompts, max_tokens=max_tokens)
        return [Trace(one["sent"], one["arrivals"], one["end"], one["tokens"]) for one in found]

    def order(self, **what: Any) -> Any:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the in-process contender has ended")
        return json.loads(line)


class InProcessLlama(InProcess):
    """llama.cpp in its Python package, the reference for its server."""

    name = "in-process llama.cpp"
    streams = 1

    def start(self) -> None:
        worker = [places.llama_python(), str(HERE / "llama_worker.py"), str(self.model.gguf)]
        self.launch([*worker, str(LLAMA_CONTEXT), str(os.cpu_count())], dict(os.environ))
