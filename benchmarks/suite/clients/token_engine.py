"""An engine that computes nothing, to measure the cost of the front. It answers at a fixed rate.

The prompt of `generate` is `STREAMS STEPS`. Once that many requests have arrived, each step sends
one message with a token for each of them, as the real engine does.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from typing import Any

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Message, Notification, Request, Response

STEP_S = 0.001
CHOICE = {"index": 0, "text": "", "reasoning": "", "tool_calls": [], "finish_reason": "length"}
PHASES = ("queue_s", "load_s", "prefill_s", "decode_s", "time_to_first_token_s", "tokens_per_s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    link = socket.socket(fileno=parser.parse_known_args()[0].fd)

    def send(message: Message) -> None:
        link.sendall(encode(message, Encoding.MSGPACK))

    send(Notification("hello", {
        "pid": os.getpid(), "mlx": "0", "mlx_lm": "0", "blas": "none", "device": "cpu",
        "backend": "cpu", "memory_budget_bytes": 2**30,
    }))  # fmt: skip
    decoder, waiting = Decoder(trusted=True), []
    while data := link.recv(1 << 18):
        decoder.feed(data)
        for message in decoder:
            if isinstance(message, Request):
                send(Response(message.id, None, {"models": []}))
            elif isinstance(message, Notification) and message.method == "submit":
                waiting.append(message.params["rid"])
                streams, steps = map(int, message.params["params"]["prompt"].split())
                if len(waiting) == streams:
                    play(link, waiting, steps)
                    waiting = []


def play(link: socket.socket, rids: list[int], steps: int) -> None:
    delta = {"index": 0, "text": " word", "channel": "answer", "tokens": 1}
    step = encode(_step([[rid, "delta", delta] for rid in rids]), Encoding.MSGPACK)
    due = time.perf_counter()
    for _ in range(steps):
        due += STEP_S
        time.sleep(max(0.0, due - time.perf_counter()))
        link.sendall(step)
    result: dict[str, Any] = {
        "choices": [CHOICE],
        "usage": {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": steps},
        "timing": dict.fromkeys(PHASES, 0.0),
        "applied": {"model": "none", "notes": [], "seed": 7},
    }
    link.sendall(encode(_step([[rid, "end", result] for rid in rids]), Encoding.MSGPACK))


def _step(events: list[Any]) -> Notification:
    return Notification("step", {"events": events})


if __name__ == "__main__":
    main()
