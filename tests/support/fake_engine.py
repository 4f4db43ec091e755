"""A fake engine: a real process that implements the link and follows a script.

The last message of a `chat` (or the prompt of `generate`) selects the answer:

    N tokens       N deltas `w0 `, `w1 `, …, each in a separate message
    flood N        N deltas of 1024 characters
    endless        deltas until the request is cancelled
    prefill N      N progress reports on the prompt, then the end
    say TEXT       the text, three characters at a time
    mixed          reasoning, a tool call, an answer
    stuck          no answer, and the process stops reading its link
    poison         the process dies

`--script` selects a fault of the process: `crash-once FILE`, `crash-at-submit`, `exit-now`,
`hang` (at a submit), `dead-after-sleep` (does not answer the canary), `say-bye FILE` (once, instead
of an answer), `slow-start SECONDS` (before its `hello`), `deaf` (answers cancel with an event
`prefill`, and continues), `halfway` (answers cancel with an early `stopping`, but never ends the
request), `brief` (a few deltas at most, whatever the message), `never-load FILE` (records each
`load` and does not answer), `die-of-stats FILE` (crashes at each `stats`).
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxd.daemon import lifeline
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import ERRORS
from mlxd.protocol.messages import Message, Notification, Request, Response

TOKEN_S = 0.001
BRIEF_EVENTS = 5
Event = tuple[str, dict[str, Any]]


class FakeEngine:
    """Runs each request in its own thread."""

    def __init__(self, link: socket.socket, script: str) -> None:
        self.link = link
        self.fault, _, self.file = script.partition(" ")
        self.lock = threading.Lock()
        self.tokens: dict[int, int] = {}
        self.residents: list[dict[str, Any]] = []

    def run(self) -> None:
        if self.fault == "slow-start":
            time.sleep(float(self.file))
        versions = {"mlx": "0", "mlx_lm": "0", "blas": "none"}
        device = {"device": "cpu", "backend": "cpu", "memory_budget_bytes": 2**30}
        self.send(Notification("hello", {"pid": os.getpid(), **versions, **device}))
        decoder = Decoder(trusted=True)
        while data := self.link.recv(1 << 18):
            decoder.feed(data)
            for message in decoder:
                if isinstance(message, Request):
                    self.answer(message)
                elif isinstance(message, Notification) and message.method == "submit":
                    self.submit(message.params)
                elif isinstance(message, Notification):
                    self.cancel(message.params)

    def send(self, message: Message) -> None:
        with self.lock:
            self.link.sendall(encode(message, Encoding.MSGPACK))

    def step(self, rid: int, kind: str, payload: dict[str, Any]) -> bool:
        """Send one event of a request. Return False if the request was cancelled."""
        with self.lock:
            if rid not in self.tokens:
                return False
            self.tokens[rid] += payload.get("tokens", 0)
            if kind in ("end", "error"):
                del self.tokens[rid]
            step = Notification("step", {"events": [[rid, kind, payload]]})
            self.link.sendall(encode(step, Encoding.MSGPACK))
            return True

    # ---- messages

    def submit(self, params: dict[str, Any]) -> None:
        text = _text(params["params"])
        assert params["rid"] not in self.tokens, "submitted twice"
        self.fail_as_told()
        self.tokens[params["rid"]] = 0
        self.step(params["rid"], "begun", {})
        if text == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if (text == "stuck" and self.fault != "brief") or self.fault == "hang":
            signal.pause()
        threading.Thread(target=self.play, args=(params, text), daemon=True).start()

    def fail_as_told(self) -> None:
        once = self.fault in ("crash-once", "say-bye")
        first = once and not Path(self.file).exists()
        if first:
            Path(self.file).touch()
        if self.fault == "crash-at-submit" or (self.fault == "crash-once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "say-bye" and first:
            self.send(Notification("bye", {"reason": "empty"}))
            os._exit(0)

    def cancel(self, params: dict[str, Any]) -> None:
        rid = params["rid"]
        if self.fault == "deaf":
            self.step(rid, "prefill", {"done": 0, "total": 1})
            return
        usage = {"completion_tokens": self.tokens.get(rid, 0)}
        error = ERRORS[params["code"]]("It was ended.", data={"usage": usage})
        if self.fault == "halfway":
            self.step(rid, "stopping", error.to_map())
            self.tokens.pop(rid, None)
            return
        self.step(rid, "error", error.to_map())

    def answer(self, request: Request) -> None:
        result: Any = {"models": self.residents}
        if self.fault.endswith(f"-{request.method}"):
            with Path(self.file).open("a") as calls:
                calls.write(request.method + "\n")
            if request.method == "stats":
                os.kill(os.getpid(), signal.SIGKILL)
            return
        if request.method == "load":
            model = request.params["model"]["name"]
            self.residents = [
                {
                    "model": model,
                    "path": request.params["model"]["path"],
                    "bytes": 1,
                    "pinned": request.params["pin"],
                    "keep_alive_s": request.params["keep_alive_s"],
                    "notes": [],
                    "requests": 1,  # as at the time of the load; the record is not sent again
                }
            ]
            self.send(Notification("resident", {"models": self.residents}))
            result = {"model": model, "bytes": 1, "load_s": 0.0}
        elif request.method == "unload":
            result = {"unloaded": bool(self.residents), "pending_requests": 0}
        elif request.method == "canary" and self.fault == "dead-after-sleep":
            return
        elif request.method == "stats":
            result = {"open": len(self.tokens)}
        elif request.method == "tokenize":
            if (text := request.params["text"] or "messages") == "never":
                return
            result = {"tokens": [*text.encode()], "count": len(text.encode())}
        elif request.method == "detokenize":
            octets = bytes(token % 256 for token in request.params["tokens"])
            result = {"text": octets.decode(errors="replace")}
        self.send(Response(request.id, None, result))

    # ---- answers

    def play(self, submission: dict[str, Any], text: str) -> None:
        rid = submission["rid"]
        said = []
        most = BRIEF_EVENTS if self.fault == "brief" else None
        for kind, payload in itertools.islice(_events(text), most):
            if not self.step(rid, kind, payload):
                return
            if payload.get("channel") == "answer":
                said.append(payload["text"])
        name = submission["model"]["name"]
        self.step(rid, "end", _result("".join(said), self.tokens.get(rid, 0), name))


def _events(text: str) -> Iterator[Event]:
    words = text.split()
    if words[1:2] == ["tokens"] and words[0].isdecimal():
        yield from (_delta(f"w{number} ") for number in range(int(words[0])))
    elif words[:1] == ["flood"] and words[1:] and words[1].isdecimal():
        yield from (_delta("x" * 1024) for _ in range(int(words[1])))
    elif words[:1] == ["prefill"] and words[1:] and words[1].isdecimal():
        for done in range(int(words[1])):
            time.sleep(TOKEN_S)
            yield "prefill", {"done": done, "total": int(words[1])}
    elif words[:1] == ["say"]:
        whole = text.partition("say ")[2]
        yield from (_delta(whole[at : at + 3]) for at in range(0, len(whole), 3))
    elif words[:1] == ["mixed"]:
        yield _delta("hm ", "reasoning")
        yield "tool_call", {"index": 0, "name": "f", "arguments": {}, "id": "call_0"}
        yield _delta("well")
    elif words[:1] == ["endless"]:
        while True:
            yield _delta("on ")


def _delta(text: str, channel: str = "answer") -> Event:
    time.sleep(TOKEN_S)
    return "delta", {"index": 0, "text": text, "channel": channel, "tokens": 1}


def _text(params: dict[str, Any]) -> str:
    if params.get("messages"):
        return str(params["messages"][-1]["content"])
    return str(params.get("prompt"))


def _result(text: str, tokens: int, model: str) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "reasoning": "", "tool_calls": []}
    phases = ("queue_s", "load_s", "prefill_s", "decode_s", "time_to_first_token_s")
    return {
        "choices": [{**choice, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": tokens},
        "timing": {**dict.fromkeys(phases, 0.0), "tokens_per_s": 0.0},
        "applied": {"model": model, "notes": [], "seed": 7},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--script", default="")
    arguments = parser.parse_args()
    lifeline.end_with(arguments.parent)
    if arguments.script == "exit-now":
        print("the device is on fire", file=sys.stderr, flush=True)
        sys.exit(3)
    FakeEngine(socket.socket(fileno=arguments.fd), arguments.script).run()


if __name__ == "__main__":
    main()
