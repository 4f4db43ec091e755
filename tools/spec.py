"""Generates the tables of `protocol/SPEC.md` from the code.

python tools/spec.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxd.protocol.codec import Encoding, encode
from mlxd.protocol.errors import ERRORS, InvalidParams
from mlxd.protocol.messages import Message, Notification, Request, Response
from mlxd.protocol.methods import METHODS
from mlxd.protocol.parameters import DELIVERY, SAMPLING
from mlxd.protocol.params import Param, exact
from mlxd.protocol.version import VERSION

SPEC = Path(__file__).resolve().parents[1] / "protocol" / "SPEC.md"
SHARED = {param.name for param in (*SAMPLING, *DELIVERY)}


def tables() -> Iterator[str]:
    """Yield the lines of the method, parameter and error tables."""
    yield "### Methods"
    yield ""
    yield "| method | parameters | result | |"
    yield "|---|---|---|---|"
    for method in METHODS.values():
        own = [p for p in method.params if p.name not in SHARED or len(method.params) < 12]
        names = ", ".join(f"`{p.name}`" + ("*" if p.required else "") for p in own)
        if len(method.params) >= 12:
            names += ", sampling, delivery"
        yield f"| `{method.name}` | {names} | {method.result} | {method.doc} |"
    for title, params in (("Sampling", SAMPLING), ("Delivery", DELIVERY)):
        yield ""
        yield f"### {title}"
        yield ""
        yield "| parameter | kind | default | range | |"
        yield "|---|---|---|---|---|"
        yield from (_row(param) for param in params)
    yield ""
    yield "### Errors"
    yield ""
    yield "| code | JSON-RPC | exit code of `mlx` | retry may help |"
    yield "|---|---|---|---|"
    for code, kind in ERRORS.items():
        retry = "yes" if kind.retryable else ""
        yield f"| `{code}` | {kind.json_rpc_code} | {kind.exit_code} | {retry} |"


def session() -> Iterator[tuple[str, Message]]:
    """Yield the direction (→ from the client, ← from the daemon) and message of a short session."""
    yield "→", Request(1, "hello", {"client": "example", "protocol": 1})
    limits = {"max_message_bytes": 33554432, "max_depth": 64, "max_requests_per_connection": 64,
              "max_connections": 2048, "max_queue": 256}  # fmt: skip
    greeting = {"server": "mlxd", "version": VERSION, "protocol": 1, "capabilities": ["chat"]}
    yield "←", Response(1, None, {**greeting, "limits": limits})
    messages = [{"role": "user", "content": "Count from 3 to 4."}]
    yield "→", Request(2, "chat", {"messages": messages, "temperature": 0, "stream": True})
    yield "←", Notification("event", {"id": 2, "type": "queued", "position": 0})
    yield "←", Notification("event", {"id": 2, "type": "prefill", "done": 14, "total": 14})
    for text in ("3", ", 4"):
        delta = {"id": 2, "type": "delta", "index": 0, "text": text, "channel": "answer"}
        yield "←", Notification("event", delta)
    yield "←", Response(2, None, _completion("3, 4"))
    yield "→", Notification("cancel", {"id": 2})
    yield "→", Request(3, "chat", {"messages": messages, "temprature": 0})
    unknown = "is not a parameter of chat"
    yield "←", Response(3, InvalidParams("temprature", unknown).to_map(), None)


def _completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "reasoning": "", "tool_calls": [], "finish_reason": "stop"}
    usage = {"prompt_tokens": 14, "cached_tokens": 0, "completion_tokens": 5, "reasoning_tokens": 0}
    timing = {"queue_s": 0.0, "load_s": 0.0, "prefill_s": 0.0078125, "decode_s": 0.015625,
              "time_to_first_token_s": 0.0078125, "tokens_per_s": 320.0}  # fmt: skip
    applied: dict[str, Any] = {"model": "pocket", "revision": None, "seed": 7, "batched": False,
               "constrained": False, "truncated_tokens": 0, "notes": []}  # fmt: skip
    return {"choices": [choice], "usage": usage, "timing": timing, "applied": applied}


def session_lines() -> Iterator[str]:
    """Yield the session in both encodings."""
    yield "In JSON:"
    yield "```"
    for who, message in session():
        yield f"{who} {encode(message, Encoding.JSON).decode().rstrip()}"
    yield "```"
    yield "The same in MessagePack, as bytes:"
    yield "```"
    for who, message in session():
        yield f"{who} {encode(message, Encoding.MSGPACK).hex(' ')}"
    yield "```"


def _row(param: Param) -> str:
    bounds = ""
    if param.minimum is not None and param.maximum is not None:
        bounds = f"{exact(param.minimum)} to {exact(param.maximum)}"
    bounds = " · ".join(param.choices) or bounds
    default = "" if param.default is None else f"`{json.dumps(param.default)}`"
    return f"| `{param.name}` | {param.kind} | {default} | {bounds} | {param.doc} |"


def rendered(text: str) -> str:
    """Return the document with a generated part replaced."""
    return _replaced(_replaced(text, "tables", tables()), "session", session_lines())


def _replaced(text: str, name: str, lines: Iterator[str]) -> str:
    begin, end = f"<!-- {name}: generated by tools/spec.py -->", f"<!-- end of {name} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{tail}"


if __name__ == "__main__":
    SPEC.write_text(rendered(SPEC.read_text(encoding="utf-8")), encoding="utf-8")
