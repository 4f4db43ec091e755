"""mlx-lm in a process of its own with nothing around it: the limit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from suite import places
from suite.contenders.base import Contender
from suite.traffic import Trace

WORKER = Path(__file__).with_name("inprocess_worker.py")


class InProcess(Contender):
    name = "in-process mlx-lm"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [places.mlx_python(), str(WORKER), str(self.model.path)],
            env=places.mlx_environ(small=False),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
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
