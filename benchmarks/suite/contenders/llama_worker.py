"""Answers requests on stdin (one JSON object per line) with llama.cpp in this process: MODEL
CONTEXT THREADS, with the settings of its server."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from llama_cpp import Llama

MODEL = Llama(sys.argv[1], n_ctx=int(sys.argv[2]), n_threads=int(sys.argv[3]), verbose=False)


def answer(prompt: str, max_tokens: int) -> dict[str, Any]:
    arrivals: list[float] = []
    sent = time.perf_counter()
    for piece in MODEL.create_completion(
        prompt, max_tokens=max_tokens, temperature=0.0, stream=True
    ):
        if piece["choices"][0]["finish_reason"] is None:
            arrivals.append(time.perf_counter())
    return {"sent": sent, "arrivals": arrivals, "end": time.perf_counter(), "tokens": len(arrivals)}


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(
            json.dumps([answer(one, order["max_tokens"]) for one in order["prompts"]]), flush=True
        )


if __name__ == "__main__":
    main()
