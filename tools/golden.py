"""Generates `protocol/golden/`: messages as bytes in both encodings, with their meaning.

python tools/golden.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxd.protocol.codec import Encoding, encode
from mlxd.protocol.errors import ContextOverflow, HubUnreachable
from mlxd.protocol.messages import Message, Notification, Request, Response

GOLDEN = Path(__file__).resolve().parents[1] / "protocol" / "golden"
OVERFLOW = ContextOverflow(
    "The prompt has 20000 tokens; pocket has a context of 16384.",
    data={"prompt_tokens": 20000, "context_tokens": 16384},
)
OFFLINE = HubUnreachable("HF_HUB_OFFLINE is set, so the hub is not contacted.")
HELLO = [{"role": "user", "content": "hello"}]
VALID: dict[str, Message] = {
    "ping": Request(1, "ping"),
    "chat, streamed": Request(2, "chat", {"messages": HELLO, "stream": True, "temperature": 0.5}),
    "an id of 32 bits": Request(4294967295, "status"),
    "text beyond ASCII": Request(3, "tokenize", {"text": "Grüße ✓ 漢字 🦊"}),
    "token ids": Request(4, "generate", {"prompt": [0, 127, 128, 65536], "max_tokens": 8}),
    "nothing, true, false, negative": Request(
        5, "chat", {"messages": HELLO, "seed": None, "ignore_eos": True, "log": False, "n": -1}
    ),
    "an event": Notification(
        "event", {"id": 2, "type": "delta", "index": 0, "text": "Hel", "channel": "answer"}
    ),
    "cancel as a notification": Notification("cancel", {"id": 2}),
    "a result": Response(1, None, {"pong": True}),
    "an error": Response(2, OVERFLOW.to_map(), None),
    "an error that a retry may cure": Response(2, OFFLINE.to_map(), None),
}
INVALID: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "a string of 4 GB": b"\x94\x00\x01\xdb\xff\xff\xff\xff",
    "an array of 4 billion": b"\x94\x00\x01\xdd\xff\xff\xff\xff",
    "nested too deep": b"\x93" + b"\x91" * 100,
    "a reserved byte": b"\x93\xc1\xc1\xc1",
    "an extension type": b"\x93\x02\xd4\x01\x00\x90",
    "text that is not UTF-8": b"\x93\x02\xa1\xff\x90",
    "a message of another type": b"\x93\x05\xa1x\x90",
    "a line that is not JSON": b'{"id":1,\n',
    "NaN": b'{"id":1,"method":"ping","params":{"x":NaN}}\n',
    "half a surrogate": b'{"id":1,"method":"\\ud800"}\n',
}


def valid_vectors() -> list[dict[str, Any]]:
    """Return the name, meaning and both encodings of every message."""
    return [
        {
            "name": name,
            "meaning": meaning(message),
            "msgpack_hex": encode(message, Encoding.MSGPACK).hex(),
            "json_line": encode(message, Encoding.JSON).decode(),
        }
        for name, message in VALID.items()
    ]


def invalid_vectors() -> list[dict[str, str]]:
    """Return the name and bytes of every input that is refused with `parse_error`."""
    return [
        {"name": name, "hex": raw.hex(), "code": "parse_error"} for name, raw in INVALID.items()
    ]


def meaning(message: Message) -> dict[str, Any]:
    """Return a message as a map that includes its kind."""
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__}
    return {"kind": type(message).__name__.lower(), **fields}


def as_text(vectors: list[Any]) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "valid.json").write_text(as_text(valid_vectors()), encoding="utf-8")
    (GOLDEN / "invalid.json").write_text(as_text(invalid_vectors()), encoding="utf-8")
