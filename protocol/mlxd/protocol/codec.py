"""Bytes to messages and back, in both encodings. Sans I/O: no sockets, no clock, no threads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgpack

from mlxd.protocol.errors import ERRORS, InvalidRequest, ParseError
from mlxd.protocol.framing import Limits, Scanner
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response

__all__ = ["Decoder", "Encoding", "Limits", "encode"]

MESSAGE_ID_MAX = 2**32 - 1  # MessagePack-RPC: msgid is an unsigned 32-bit number
EXTERNAL_FIRST_BYTES = {0x93, 0x94}
REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
PACKER_KEEPS_BYTES = 1 << 20
"""After a longer message its packer, which keeps the room that it needed, is let go."""
_spare: list[msgpack.Packer] = []
"""Packers that nobody uses now: making one for each message costs as much as packing it. Whoever
packs takes one out, so that no two threads have the same."""


class Encoding(Enum):
    """The two published encodings of one method table."""

    MSGPACK = "msgpack"
    JSON = "json"


class Decoder:
    """Bytes of one connection in, messages out.

    Call `feed` with what arrived, then iterate until it is exhausted. After a `ParseError` the
    place in the stream is lost: answer it and close the connection.

    A `trusted` peer's structure is not scanned beforehand, which saves most of the time.
    """

    def __init__(self, limits: Limits | None = None, *, trusted: bool = False) -> None:
        self._limits = limits or Limits()
        self._trusted = trusted
        self._buffer = bytearray()
        self._scanner = Scanner(self._limits)
        self._unpacker: msgpack.Unpacker | None = None
        self._searched = 0
        self._dead = False
        self.encoding: Encoding | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Buffer bytes. Then iterate until it is exhausted."""
        if self._dead:
            return
        if self._unpacker is not None:
            self._unpacker.feed(data)
            return
        self._buffer += data
        if self.encoding is None:
            self._choose_encoding()

    def __iter__(self) -> Iterator[Message | BadRequest]:
        """Yield the messages that are complete.

        Raises:
            ParseError: the bytes are no message. Nothing more will come out of this decoder.
        """
        if self._dead:
            return
        try:
            if self._unpacker is not None:
                for value in self._unpacker:
                    yield _from_msgpack(value)
            elif self.encoding is Encoding.MSGPACK:
                yield from self._msgpack_messages()
            elif self.encoding is Encoding.JSON:
                yield from self._json_messages()
            else:
                self._refuse_unknown()
        except ParseError:
            self._dead = True
            self._buffer.clear()
            raise
        except (ValueError, msgpack.UnpackException) as exc:
            self._dead = True
            raise ParseError(f"The bytes are not MessagePack: {exc}") from exc

    def _choose_encoding(self) -> None:
        if self._trusted:
            self.encoding = Encoding.MSGPACK
            self._unpacker = msgpack.Unpacker(
                raw=False, strict_map_key=False, max_buffer_size=2**31 - 1
            )
            self._unpacker.feed(bytes(self._buffer))
            self._buffer.clear()
            return
        stripped = self._buffer.lstrip(b" \t\r\n")
        if not stripped:
            self._buffer.clear()
        elif stripped[0] in EXTERNAL_FIRST_BYTES:
            self.encoding = Encoding.MSGPACK
            self._buffer = stripped
        elif stripped[0] == 0x7B:
            self.encoding = Encoding.JSON

    def _refuse_unknown(self) -> None:
        if not self._buffer:
            return
        seen = bytes(self._buffer[:16])
        http = seen.split(b" ")[0] in (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE")
        what = "HTTP" if http else f"bytes that begin with {seen!r}"
        raise ParseError(f"This socket speaks MessagePack-RPC and JSON-RPC lines, not {what}.")

    def _msgpack_messages(self) -> Iterator[Message | BadRequest]:
        while self._buffer:
            if self._buffer[0] not in EXTERNAL_FIRST_BYTES:
                raise ParseError(f"A message is an array of 3 or 4, not 0x{self._buffer[0]:02x}.")
            end = self._scanner.find_end(self._buffer)
            if end is None:
                return
            frame = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._scanner.restart()
            try:
                value = msgpack.unpackb(frame, raw=False, strict_map_key=False)
            except (ValueError, TypeError, msgpack.UnpackException) as exc:
                raise ParseError(f"The bytes are not MessagePack: {exc}") from exc
            yield _from_msgpack(value)

    def _json_messages(self) -> Iterator[Message | BadRequest]:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            size = len(self._buffer) if end < 0 else end
            if size > self._limits.max_message_bytes:
                limit = self._limits.max_message_bytes
                raise ParseError(
                    f"The line is longer than {limit} bytes.",
                    hint="Send less, or raise max_message_bytes in config.toml.",
                    data={"max_message_bytes": limit},
                )
            if end < 0:
                self._searched = size
                return
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            self._searched = 0
            if line:
                yield _from_json(_parse_json(line, self._limits.max_depth))


def encode(message: Message, encoding: Encoding) -> bytes:
    """Return the message as bytes."""
    if encoding is Encoding.JSON:
        text = json.dumps(
            _to_json(message), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode("utf-8", "replace") + b"\n"
    try:
        packer = _spare.pop()
    except IndexError:
        packer = msgpack.Packer(use_bin_type=True, unicode_errors="replace")
    packed: bytes = packer.pack(_to_msgpack(message))
    if len(packed) <= PACKER_KEEPS_BYTES:
        _spare.append(packer)
    return packed


# ---- MessagePack-RPC


def _to_msgpack(message: Message) -> list[Any]:
    if isinstance(message, Request):
        return [REQUEST, message.id, message.method, [message.params]]
    if isinstance(message, Response):
        return [RESPONSE, message.id, message.error, message.result]
    return [NOTIFICATION, message.method, [message.params]]


def _from_msgpack(value: Any) -> Message | BadRequest:
    if not isinstance(value, list) or not value or isinstance(value[0], bool):
        raise ParseError("A message is an array that begins with 0, 1 or 2.")
    match value:
        case [0, int() as msgid, str() as method, params] if _is_message_id(msgid):
            return _request(msgid, method, params)
        # nil: the answer to bytes that were no request.
        case [1, (int() | None) as msgid, error, result] if msgid is None or _is_message_id(msgid):
            return Response(msgid, error if isinstance(error, dict) else _error(error), result)
        case [2, str() as method, params]:
            given = _params(params)
            return Notification(method, {} if given is None else given)
    raise ParseError(
        "A message is [0, msgid, method, [params]], [1, msgid, error, result] "
        "or [2, method, [params]]."
    )


def _is_message_id(value: Any) -> bool:
    return not isinstance(value, bool) and 0 <= value <= MESSAGE_ID_MAX


def _error(raw: Any) -> dict[str, Any] | None:
    """Return another server's error in the shape of ours."""
    if raw is None:
        return None
    return {"code": "internal", "message": str(raw), "hint": "", "retryable": False, "data": {}}


def _params(raw: Any) -> dict[str, Any] | None:
    """Return the one map of parameters; None if it is something else.

    An empty Lua table is an array, so an empty array stands for an empty map.
    """
    if isinstance(raw, list):
        if len(raw) > 1:
            return None
        raw = raw[0] if raw else {}
    if raw is None or raw == []:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        return None
    return raw


def _request(message_id: int | str | None, method: str, raw: Any) -> Request | BadRequest:
    params = _params(raw)
    if params is None:
        return BadRequest(message_id, InvalidRequest("Parameters are one map with string keys."))
    return Request(message_id, method, params)


# ---- JSON-RPC 2.0

# Unrolled, and content with a string that never ends: linear whatever comes.
_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.S)
_OPENING = (b"[", b"{")


def _parse_json(line: bytes, max_depth: int) -> Any:
    depth = 0
    for match in _STRUCTURE.finditer(line):
        token = match.group()
        if token in _OPENING:
            depth += 1
            if depth > max_depth:
                raise ParseError(f"The message is nested deeper than {max_depth}.")
        elif token[0] != 0x22:
            depth -= 1
    try:
        value = json.loads(
            line.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_integer_of_64_bits,
            parse_float=_finite,
        )
        # A lone surrogate has no UTF-8 form: it could never be passed on or answered.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as exc:
        raise ParseError(f"The line is not JSON: {exc}") from exc
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer_of_64_bits(text: str) -> int:
    # More could not be passed on as MessagePack.
    value = int(text)
    if not -(2**63) <= value < 2**64:
        raise ValueError("an integer has at most 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond a double")
    return value


def _from_json(value: Any) -> Message | BadRequest:
    if not isinstance(value, dict):
        raise ParseError("A line is one JSON-RPC object; batches are not supported.")
    message_id = value.get("id")
    if isinstance(message_id, bool) or not isinstance(message_id, (int, str, type(None))):
        raise ParseError("id must be an integer, a string or null.")
    if "method" in value:
        return _json_call(value, message_id)
    if "error" in value and value["error"] is not None:
        return Response(message_id, _from_json_error(value["error"]), None)
    if "result" in value:
        return Response(message_id, None, value["result"])
    raise ParseError("A JSON-RPC object has a method, a result or an error.")


def _json_call(
    value: dict[str, Any], message_id: int | str | None
) -> Request | Notification | BadRequest:
    method = value["method"]
    if not isinstance(method, str):
        raise ParseError("method must be a string.")
    raw = value.get("params")
    if "id" in value:
        return _request(message_id, method, raw)
    given = _params(raw)
    return Notification(method, {} if given is None else given)


def _to_json(message: Message) -> dict[str, Any]:
    if isinstance(message, Request):
        return {
            "jsonrpc": "2.0",
            "id": message.id,
            "method": message.method,
            "params": message.params,
        }
    if isinstance(message, Notification):
        return {"jsonrpc": "2.0", "method": message.method, "params": message.params}
    if message.error is not None:
        return {"jsonrpc": "2.0", "id": message.id, "error": _to_json_error(message.error)}
    return {"jsonrpc": "2.0", "id": message.id, "result": message.result}


def _to_json_error(error: dict[str, Any]) -> dict[str, Any]:
    kind = ERRORS.get(str(error.get("code")))
    return {
        "code": kind.json_rpc_code if kind is not None else -32603,
        "message": error.get("message", ""),
        "data": {
            "code": error.get("code", "internal"),
            "hint": error.get("hint", ""),
            "retryable": error.get("retryable", False),
            "data": error.get("data") or {},
        },
    }


def _from_json_error(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        return _error(raw) or {}
    extra = raw.get("data")
    extra = extra if isinstance(extra, dict) else {}
    return {
        "code": extra.get("code", "internal"),
        "message": raw.get("message", ""),
        "hint": extra.get("hint", ""),
        "retryable": extra.get("retryable", False),
        "data": extra.get("data") or {},
    }
