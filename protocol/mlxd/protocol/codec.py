"""Encodes and decodes messages in both encodings. Sans I/O: no sockets, clocks or threads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgpack

from mlxd.protocol.errors import ERRORS, InvalidRequest, ParseError
from mlxd.protocol.framing import TOO_LONG_HINT, Limits, Scanner
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response

__all__ = ["Decoder", "Encoding", "Limits", "encode"]

MESSAGE_ID_MAX = 2**32 - 1  # MessagePack-RPC: msgid is an unsigned 32-bit number
EXTERNAL_FIRST_BYTES = {0x93, 0x94}
REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
PACKER_KEEPS_BYTES = 1 << 20
"""A packer keeps its buffer. After a longer message it is dropped to free the memory."""
spare_packers: list[msgpack.Packer] = []
"""Unused packers, because creating one costs as much as packing a message. `encode` removes one
while it uses it, so that no two threads share a packer."""


class Encoding(Enum):
    """The two encodings of the protocol."""

    MSGPACK = "msgpack"
    JSON = "json"


class Decoder:
    """Turns the bytes of one connection into messages.

    Call `feed` with the bytes that arrived, then iterate until it is exhausted. After a
    `ParseError`, decoding cannot continue: answer it and close the connection.

    For a `trusted` peer, the decoder skips the scan for limits, which takes most of the time.
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
        """The number of buffered bytes of an incomplete message."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> None:
        """Copy bytes into the buffer. Then iterate until the decoder is exhausted."""
        if self._dead:
            return
        if self._unpacker is not None:
            self._unpacker.feed(data)
            return
        self._buffer += data
        if self.encoding is None:
            self._choose_encoding()

    def __iter__(self) -> Iterator[Message | BadRequest]:
        """Yield all complete messages.

        Raises:
            ParseError: the bytes are not a message. The decoder yields nothing more.
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
        what = "an HTTP request" if http else f"bytes that begin with {seen!r}"
        raise ParseError(f"Expected MessagePack-RPC or a JSON-RPC line, but received {what}.")

    def _msgpack_messages(self) -> Iterator[Message | BadRequest]:
        while self._buffer:
            if self._buffer[0] not in EXTERNAL_FIRST_BYTES:
                raise ParseError(
                    f"A message must be an array of 3 or 4, not byte 0x{self._buffer[0]:02x}."
                )
            end = self._scanner.find_end(self._buffer)
            if end is None:
                return
            try:
                # Unpacked in place: a copy of a long message costs as much as unpacking it.
                with memoryview(self._buffer) as whole, whole[:end] as frame:
                    value = msgpack.unpackb(frame, raw=False, strict_map_key=False)
            except (ValueError, TypeError, msgpack.UnpackException) as exc:
                raise ParseError(f"The bytes are not MessagePack: {exc}") from exc
            del self._buffer[:end]
            self._scanner.restart()
            yield _from_msgpack(value)

    def _json_messages(self) -> Iterator[Message | BadRequest]:
        while True:
            end = self._buffer.find(b"\n", self._searched)
            size = len(self._buffer) if end < 0 else end
            if size > self._limits.max_message_bytes:
                limit = self._limits.max_message_bytes
                raise ParseError(
                    f"The line is longer than {limit} bytes.",
                    hint=TOO_LONG_HINT,
                    data={"max_message_bytes": limit},
                )
            if end < 0:
                self._searched = size
                return
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            self._searched = 0
            if line:
                yield _from_json(_parse_json(line, self._limits))


def encode(message: Message, encoding: Encoding) -> bytes:
    """Return the message as bytes. A JSON message ends with a newline."""
    if encoding is Encoding.JSON:
        text = json.dumps(
            _to_json(message), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode("utf-8", "replace") + b"\n"
    try:
        packer = spare_packers.pop()
    except IndexError:
        packer = msgpack.Packer(use_bin_type=True, unicode_errors="replace")
    packed: bytes = packer.pack(_to_msgpack(message))
    if len(packed) <= PACKER_KEEPS_BYTES:
        spare_packers.append(packer)
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
        raise ParseError("A message must be an array that begins with 0, 1 or 2.")
    match value:
        case [0, int() as msgid, str() as method, params] if _is_message_id(msgid):
            return _request(msgid, method, params)
        # A nil id: the answer to bytes that are not a request.
        case [1, (int() | None) as msgid, error, result] if msgid is None or _is_message_id(msgid):
            return Response(msgid, error if isinstance(error, dict) else _error(error), result)
        case [2, str() as method, params]:
            given = _params(params)
            return Notification(method, {} if given is None else given)
    raise ParseError(
        "A message must be [0, msgid, method, [params]], [1, msgid, error, result] "
        "or [2, method, [params]]."
    )


def _is_message_id(value: Any) -> bool:
    return not isinstance(value, bool) and 0 <= value <= MESSAGE_ID_MAX


def _error(raw: Any) -> dict[str, Any] | None:
    """Return an error of any type as an error map."""
    if raw is None:
        return None
    return {"code": "internal", "message": str(raw), "hint": "", "retryable": False, "data": {}}


def _params(raw: Any) -> dict[str, Any] | None:
    """Return the map of parameters, or None if it is invalid.

    An empty array is an empty map, because Lua clients encode an empty table as an array.
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
        return BadRequest(message_id, InvalidRequest("params must be one map with string keys."))
    return Request(message_id, method, params)


# ---- JSON-RPC 2.0

_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_LONG_INTEGER = b"0" * 19


def _parse_json(line: bytes, limits: Limits) -> Any:
    outside = _outside_strings(line, limits)
    _check_structure(outside, limits)
    numbers = outside.translate(_DIGITS_ALIKE)
    parsers: dict[str, Any] = {}
    # Called for every number, which is slow for long lists of token ids.
    if _LONG_INTEGER in numbers or b"e0" in numbers or b"e+" in numbers:
        parsers = {"parse_int": _integer_of_64_bits, "parse_float": _finite}
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, **parsers)
        if b"\\" in line and (b"\\ud" in line or b"\\uD" in line):
            # Rejects lone surrogates, which cannot be encoded as UTF-8 in an answer.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as exc:
        raise ParseError(f"The line is not JSON: {exc}") from exc
    return value


def _outside_strings(line: bytes, limits: Limits) -> bytes:
    """Return the line without its strings, by operations that run at the speed of memory."""
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = line.split(b'"', 2 * limits.max_values + 2)
    limits.check_counts(len(pieces) // 2, 0)
    return b"".join(pieces[::2])


def _check_structure(outside: bytes, limits: Limits) -> None:
    brackets = outside.translate(None, _NO_BRACKETS)
    containers = brackets.count(b"[") + brackets.count(b"{")
    empty = outside.count(b"[]") + outside.count(b"{}")
    separators = outside.count(b",") + outside.count(b":")
    limits.check_counts(containers - empty + separators, containers)
    if containers <= limits.max_depth:
        return
    depth = 0
    for byte in brackets:
        depth += 1 if byte in b"[{" else -1
        if depth > limits.max_depth:
            raise ParseError(f"The message is nested deeper than {limits.max_depth} levels.")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _integer_of_64_bits(text: str) -> int:
    # MessagePack has no larger integers.
    value = int(text)
    if not -(2**63) <= value < 2**64:
        raise ValueError("an integer is larger than 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is larger than a 64-bit float")
    return value


def _from_json(value: Any) -> Message | BadRequest:
    if not isinstance(value, dict):
        raise ParseError("A line must be one JSON-RPC object. Batches are not supported.")
    message_id = value.get("id")
    if isinstance(message_id, bool) or not isinstance(message_id, (int, str, type(None))):
        raise ParseError("id must be an integer, a string or null.")
    if "method" in value:
        return _json_call(value, message_id)
    if "error" in value and value["error"] is not None:
        return Response(message_id, _from_json_error(value["error"]), None)
    if "result" in value:
        return Response(message_id, None, value["result"])
    raise ParseError("A JSON-RPC object needs a method, a result or an error.")


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
