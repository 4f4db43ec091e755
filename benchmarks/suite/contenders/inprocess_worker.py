"""Answers requests on stdin (one JSON object per line) with mlx-lm's own loops.

One prompt uses `stream_generate`. Several use `BatchGenerator` and only collect its tokens, as a
program without a server would. With BLIS it chooses the number of threads as mlxd does, so that the
comparison does not depend on the library.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

from mlx.utils import tree_flatten
from mlx_lm import load, stream_generate
from mlx_lm.generate import BatchGenerator

THREADS_FROM = 1 << 25  # size of the largest product in multiplications, as in mlxd's engine
MODEL, TOKENIZER = load(sys.argv[1])
WIDEST = max(array.size for _, array in tree_flatten(MODEL.parameters()) if array.ndim > 1)
MOST = int(os.environ.get("BLIS_NUM_THREADS") or 1)
PUT = getattr(ctypes.CDLL(None), "bli_thread_set_num_threads", None)


def fit(rows: int) -> None:
    """Set the number of threads for matrix products with this many rows."""
    if PUT is not None:
        PUT(MOST if rows * WIDEST >= THREADS_FROM else 1)


def single(prompt: str, max_tokens: int) -> dict[str, Any]:
    arrivals: list[float] = []
    sent = time.perf_counter()
    fit(len(TOKENIZER.encode(prompt)))
    for _ in stream_generate(MODEL, TOKENIZER, prompt, max_tokens=max_tokens):
        arrivals.append(time.perf_counter())
        fit(1)
    return {"sent": sent, "arrivals": arrivals, "end": time.perf_counter(), "tokens": len(arrivals)}


def batch(prompts: list[str], max_tokens: int) -> list[dict[str, Any]]:
    sent = time.perf_counter()
    tokens = [TOKENIZER.encode(prompt) for prompt in prompts]
    generator = BatchGenerator(MODEL, max_tokens=max_tokens)
    found = {
        uid: {"sent": sent, "arrivals": [], "end": 0.0, "tokens": 0}
        for uid in generator.insert(tokens)
    }
    left = len(found)
    fit(sum(map(len, tokens)))
    while left:
        _, responses = generator.next()
        now = time.perf_counter()
        fit(left)
        for response in responses:
            one: dict[str, Any] = found[response.uid]
            one["arrivals"].append(now)
            one["tokens"] += 1
            if response.finish_reason is not None:
                one["end"] = now
                left -= 1
    generator.close()
    return list(found.values())


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        prompts, max_tokens = order["prompts"], order["max_tokens"]
        if len(prompts) == 1:
            answer = [single(prompts[0], max_tokens)]
        else:
            answer = batch(prompts, max_tokens)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
