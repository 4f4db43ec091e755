"""A MessagePack codec for one request and its answer. Imports nothing."""


class More(Exception):
    """The object is incomplete."""


def pack(value):
    """Encode a value as MessagePack: None, booleans, integers, floats, strings, lists or maps."""
    out = []
    _pack(value, out)
    return b"".join(out)


def _pack(value, out):
    if value is None:
        out.append(b"\xc0")
    elif value is True:
        out.append(b"\xc3")
    elif value is False:
        out.append(b"\xc2")
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            raw = raw.decode("utf-8", "replace").encode("utf-8")
        size = len(raw)
        out.append(bytes((0xA0 | size,)) if size < 32 else b"\xdb" + size.to_bytes(4, "big"))
        out.append(raw)
    elif isinstance(value, int):
        if 0 <= value < 128:
            out.append(bytes((value,)))
        elif value >= 0:
            out.append(b"\xcf" + value.to_bytes(8, "big"))
        else:
            out.append(b"\xd3" + value.to_bytes(8, "big", signed=True))
    elif isinstance(value, float):
        from _struct import pack as pack_struct

        out.append(pack_struct(">Bd", 0xCB, value))
    elif isinstance(value, list):
        size = len(value)
        out.append(bytes((0x90 | size,)) if size < 16 else b"\xdd" + size.to_bytes(4, "big"))
        for item in value:
            _pack(item, out)
    else:
        size = len(value)
        out.append(bytes((0x80 | size,)) if size < 16 else b"\xdf" + size.to_bytes(4, "big"))
        for key, item in value.items():
            _pack(key, out)
            _pack(item, out)


def unpack(data, at):
    """Decode the value at a position.

    Return (value, position after it). More: bytes are missing.
    """
    if at >= len(data):
        raise More
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    if byte < 0x90:
        return _map(data, at, byte & 15)
    if byte < 0xA0:
        return _list(data, at, byte & 15)
    if byte < 0xC0:
        return _text(data, at, byte & 31)
    if byte >= 0xE0:
        return byte - 256, at
    if byte < 0xC4:
        return (None, None, False, True)[byte - 0xC0], at
    return _long(data, at, byte)


def _long(data, at, byte):
    if 0xCC <= byte <= 0xD3:
        width = 1 << (byte & 3)
        raw, at = _take(data, at, width)
        return int.from_bytes(raw, "big", signed=byte >= 0xD0), at
    if byte in (0xCA, 0xCB):
        from _struct import unpack as unpack_struct

        raw, at = _take(data, at, 4 if byte == 0xCA else 8)
        return unpack_struct(">f" if byte == 0xCA else ">d", raw)[0], at
    kind, width = {
        0xC4: (_bytes, 1), 0xC5: (_bytes, 2), 0xC6: (_bytes, 4),
        0xD9: (_text, 1), 0xDA: (_text, 2), 0xDB: (_text, 4),
        0xDC: (_list, 2), 0xDD: (_list, 4), 0xDE: (_map, 2), 0xDF: (_map, 4),
    }[byte]  # fmt: skip
    raw, at = _take(data, at, width)
    return kind(data, at, int.from_bytes(raw, "big"))


def _take(data, at, size):
    if at + size > len(data):
        raise More
    return data[at : at + size], at + size


def _bytes(data, at, size):
    return _take(data, at, size)


def _text(data, at, size):
    raw, at = _take(data, at, size)
    return str(raw, "utf-8", "replace"), at


def _list(data, at, size):
    out = []
    for _ in range(size):
        value, at = unpack(data, at)
        out.append(value)
    return out, at


def _map(data, at, size):
    out = {}
    for _ in range(size):
        key, at = unpack(data, at)
        value, at = unpack(data, at)
        out[key] = value
    return out, at
