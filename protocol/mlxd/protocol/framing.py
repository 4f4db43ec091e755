"""Finds the end of a MessagePack object, and enforces limits on size and depth. No I/O.

A decoder that trusts its input allocates the size that an array header declares, so five bytes can
request gigabytes. The scanner reads headers only and keeps its position between feeds. An object is
decoded only after all of its bytes have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxd.protocol.errors import ParseError

MAX_MESSAGE_BYTES = 32 * 2**20
MAX_DEPTH = 64
MAX_VALUES = 2**20
"""Values in a message, such as token ids. More would occupy the reader's event loop for seconds."""
MAX_CONTAINERS = 2**17
"""Arrays and maps in a message. They take more time and memory than other values."""
TOO_LONG_HINT = "Send less, or raise max_message_bytes in config.toml and run: mlxd restart"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a message of a peer. Depth counts nested maps and arrays."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_depth: int = MAX_DEPTH
    max_values: int = MAX_VALUES
    max_containers: int = MAX_CONTAINERS

    def check_counts(self, values: int, containers: int) -> None:
        """Raise ParseError for a message that has too many values, arrays or maps."""
        for count, limit, what in (
            (values, self.max_values, "values"),
            (containers, self.max_containers, "arrays and maps"),
        ):
            if count > limit:
                raise ParseError(
                    f"The message has more than {limit} {what}.", hint="Send several messages."
                )


# Maps a first byte to the total size, for objects of a fixed size (msgpack spec, "Overview").
_FIXED = [0] * 256
for _byte in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
    _FIXED[_byte] = 1
for _byte in range(0xA0, 0xC0):
    _FIXED[_byte] = 1 + (_byte & 0x1F)
for _byte, _size in ((0xCC, 2), (0xD0, 2), (0xCD, 3), (0xD1, 3), (0xCE, 5), (0xD2, 5), (0xCA, 5),
                     (0xCF, 9), (0xD3, 9), (0xCB, 9)):  # fmt: skip
    _FIXED[_byte] = _size
_FIXED_SIZES = tuple(_FIXED)

# Maps a first byte to the width of the length field, for strings and binary data.
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


class Scanner:
    """Scans one object at a time in a growing buffer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: list[int] = []
        self._position = self._values = self._containers = 0

    def restart(self) -> None:
        """Start a new object. The caller removed the previous one from the buffer."""
        self._position = self._values = self._containers = 0
        self._open.clear()

    def find_end(self, buffer: bytearray) -> int | None:
        """Return the size of the first object in bytes, or None if more bytes are needed.

        Raises:
            ParseError: the object is too long, nested too deep, of too many values, or of an
                unused type.
        """
        position, opened = self._position, self._open
        sizes, end = _FIXED_SIZES, len(buffer)
        limit = self._limits.max_message_bytes
        left = opened.pop() if opened else 1
        while True:
            while left:
                if position >= end:
                    self._pause(position, left)
                    return None
                byte = buffer[position]
                size = sizes[byte]
                if size:
                    if position + size > end:
                        self._check_length(position + size)
                        self._pause(position, left)
                        return None
                    position += size
                    left -= 1
                    continue
                if byte in _SIZED:
                    width = _SIZED[byte]
                    body = position + 1 + width
                    if body > end:
                        self._pause(position, left)
                        return None
                    body += int.from_bytes(buffer[position + 1 : body], "big")
                    self._check_length(body)
                    if body > end:
                        self._pause(position, left)
                        return None
                    position = body
                    left -= 1
                    continue
                header = self._container(buffer, position, end)
                if header is None:
                    self._pause(position, left)
                    return None
                position, children = header
                # Every child has at least one byte.
                self._check_length(position + children)
                self._count(children)
                left -= 1
                opened.append(left)
                if len(opened) > self._limits.max_depth:
                    raise ParseError(
                        f"The message is nested deeper than {self._limits.max_depth} levels."
                    )
                left = children
            if not opened:
                break
            left = opened.pop()
        if position > limit:
            self._check_length(position)
        self._position = position
        return position

    def _pause(self, position: int, left: int) -> None:
        self._position = position
        self._open.append(left)
        self._check_length(position)

    def _check_length(self, size: int) -> None:
        limit = self._limits.max_message_bytes
        if size > limit:
            raise ParseError(
                f"The message is longer than {limit} bytes.",
                hint=TOO_LONG_HINT,
                data={"max_message_bytes": limit},
            )

    def _count(self, children: int) -> None:
        """Count a container's values at its header, before they have arrived."""
        self._containers += 1
        self._values += children
        limits = self._limits
        if self._values > limits.max_values or self._containers > limits.max_containers:
            limits.check_counts(self._values, self._containers)

    @staticmethod
    def _container(buffer: bytearray, position: int, end: int) -> tuple[int, int] | None:
        """Return (position after the header, number of children), or None if bytes are missing."""
        byte = buffer[position]
        if byte & 0xF0 == 0x90:
            return position + 1, byte & 0x0F
        if byte & 0xF0 == 0x80:
            return position + 1, 2 * (byte & 0x0F)
        if byte not in (0xDC, 0xDD, 0xDE, 0xDF):
            raise ParseError(f"The MessagePack type 0x{byte:02x} is not used in this protocol.")
        body = position + (3 if byte in (0xDC, 0xDE) else 5)
        if body > end:
            return None
        count = int.from_bytes(buffer[position + 1 : body], "big")
        return body, count if byte in (0xDC, 0xDD) else 2 * count
