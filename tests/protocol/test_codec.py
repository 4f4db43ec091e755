from __future__ import annotations

import json
import sys
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.protocol import codec
from mlxd.protocol.codec import PACKER_KEEPS_BYTES, Decoder, Encoding, Limits, encode
from mlxd.protocol.errors import ERRORS, InvalidParams, MlxdError, ParseError, error_from_map
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response
from mlxd.protocol.methods import validate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
golden = import_module("golden")
spec = import_module("spec")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
PARAMS = st.dictionaries(TEXT, VALUES, max_size=4)
IDS = st.integers(0, 2**32 - 1)
MESSAGES = (
    st.builds(Request, IDS, TEXT, PARAMS)
    | st.builds(Notification, TEXT, PARAMS)
    | st.builds(Response, IDS, st.none(), PARAMS)
    | st.builds(lambda i, t: Response(i, InvalidParams("x", t).to_map(), None), IDS, TEXT)
)


def decode(data: bytes, sizes: list[int], limits: Limits | None = None) -> list[Any]:
    decoder, out = Decoder(limits), []
    at = 0
    for size in [*sizes, len(data)]:
        decoder.feed(data[at : at + size])
        out += list(decoder)
        at += size
    return out


@settings(deadline=None)
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=4),
    encoding=st.sampled_from(Encoding),
    sizes=st.lists(st.integers(1, 9), max_size=60),
)
def test_messages_survive_any_chunking(
    messages: list[Message], encoding: Encoding, sizes: list[int]
) -> None:
    data = b"".join(encode(message, encoding) for message in messages)
    assert decode(data, sizes) == messages


@settings(deadline=None, max_examples=400)
@given(start=st.sampled_from([b"\x93", b"\x94", b"{", b""]), data=st.binary(max_size=200))
def test_garbage_gives_messages_or_a_parse_error(start: bytes, data: bytes) -> None:
    decoder = Decoder(Limits(max_message_bytes=1000, max_depth=8))
    try:
        decoder.feed(start + data)
        for message in decoder:
            assert isinstance(message, (Request, Response, Notification, BadRequest))
    except ParseError:
        decoder.feed(b"\x94\x00\x01\xa4ping\x90")
        assert list(decoder) == [], "after an error no message is decoded"


@settings(deadline=None)
@given(message=MESSAGES, at=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_damaged_byte_raises_only_parse_errors(message: Message, at: int, byte: int) -> None:
    data = bytearray(encode(message, Encoding.MSGPACK))
    data[at % len(data)] = byte
    try:
        decode(bytes(data), [])
    except ParseError:
        return


@pytest.mark.parametrize("vector", golden.INVALID, ids=str)
def test_oversized_headers_are_refused_before_memory_is_allocated(vector: str) -> None:
    tracemalloc.start()
    with pytest.raises(ParseError):
        decode(golden.INVALID[vector], [])
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


def test_the_size_limit_is_exact() -> None:
    data = encode(Request(1, "ping", {"x": "a" * 500}), Encoding.MSGPACK)
    assert decode(data, [], Limits(max_message_bytes=len(data)))
    with pytest.raises(ParseError):
        decode(data, [], Limits(max_message_bytes=len(data) - 1))


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_depth_limit_is_exact(encoding: Encoding) -> None:
    inner: Any = 1
    for _ in range(5):
        inner = [inner]
    data = encode(Request(1, "ping", {"x": inner}), encoding)
    depth = 5 + (3 if encoding is Encoding.MSGPACK else 2)
    assert decode(data, [], Limits(max_depth=depth))
    with pytest.raises(ParseError):
        decode(data, [], Limits(max_depth=depth - 1))


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(
    ("fits", "exceeds"),
    [
        ([7] * 10, [7] * 11),
        ({str(n): 0 for n in range(5)}, {str(n): 0 for n in range(6)}),
        (['","'] * 10, ['","'] * 11),
        ([[]] * 6, [[]] * 7),
    ],
)
def test_the_number_of_values_and_of_containers_is_limited(
    encoding: Encoding, fits: Any, exceeds: Any
) -> None:
    values, containers = {Encoding.MSGPACK: (9, 3), Encoding.JSON: (12, 2)}[encoding]
    limits = Limits(max_values=values + 10, max_containers=containers + 7)
    text = ',[{:\\"' * 50  # punctuation in a string is no value
    for value in (fits, exceeds):
        data = encode(Request(1, "ping", {"value": value, "text": text}), encoding)
        if value is fits:
            assert decode(data, [], limits)[0].params["value"] == value
        else:
            with pytest.raises(ParseError, match="more than"):
                decode(data, [], limits)


def test_an_array_of_too_many_values_is_refused_at_its_header() -> None:
    header = b"\x94\x00\x01\xa4ping\x91\x81\xa1a\xdd" + (2**20 + 1).to_bytes(4, "big")
    with pytest.raises(ParseError, match="more than 1048576 values"):
        decode(header, [])


@given(
    value=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**25), 10**25),
    form=st.sampled_from(["{!r}", "[1,{!r},2]", "[{!r}]"]),
)
def test_json_numbers_are_exact_or_refused(value: float, form: str) -> None:
    line = '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":'
    line += form.format(value) + "}}\n"
    try:
        found = decode(line.encode(), [])[0].params
    except ParseError:
        assert not -(2**63) <= value < 2**64
    else:
        assert found == json.loads(line)["params"]


def test_a_lone_surrogate_is_refused_and_an_escaped_backslash_is_not_one() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"%s"}}\n'
    assert decode(line % rb"\\ud83d", [])[0].params == {"a": r"\ud83d"}
    assert decode(line % rb"\ud83d\uDE00", [])[0].params == {"a": "\U0001f600"}
    with pytest.raises(ParseError, match="not JSON"):
        decode(line % rb"\ud83d", [])


def test_a_long_message_in_small_chunks_is_scanned_once() -> None:
    data = encode(Request(1, "generate", {"prompt": list(range(300)) * 20}), Encoding.MSGPACK)
    assert len(decode(data, [7] * (len(data) // 7))) == 1


@pytest.mark.parametrize("params", [[], [{}], [[]], None])
def test_empty_parameters_are_accepted_in_several_forms(params: Any) -> None:
    raw = msgpack.packb([0, 1, "ping", params])
    assert decode(raw, []) == [Request(1, "ping", {})]


def test_malformed_parameters_keep_the_request_id() -> None:
    (bad,) = decode(msgpack.packb([0, 9, "ping", [1, 2]]), [])
    assert isinstance(bad, BadRequest)
    assert bad.id == 9


def test_an_unterminated_string_is_scanned_in_linear_time() -> None:
    line = b'{"a":"' + b'\\"' * 500_000 + b"\n"
    with pytest.raises(ParseError):
        decode(line, [])  # backtracking would take hours


@pytest.mark.parametrize("number", ["1e400", "-1e999", "9" * 30, "-" + "9" * 20])
def test_numbers_out_of_range_are_refused(number: str) -> None:
    with pytest.raises(ParseError):
        decode(b'{"id":1,"method":"ping","params":{"x":%s}}\n' % number.encode(), [])


def test_a_trusted_decoder_reads_messages_in_chunks() -> None:
    decoder = Decoder(trusted=True)
    message = Notification("step", {"events": [[1, "delta", {"text": "x"}]]})
    data = encode(message, Encoding.MSGPACK) * 3
    decoder.feed(data[:5])
    assert list(decoder) == []
    decoder.feed(data[5:])
    assert list(decoder) == [message] * 3


def test_a_message_that_cannot_be_encoded_does_not_affect_others() -> None:
    good = Notification("event", {"text": "x"})
    before = encode(good, Encoding.MSGPACK)
    with pytest.raises(TypeError):
        encode(Notification("event", {"text": "y" * 100, "bad": object()}), Encoding.MSGPACK)
    assert encode(good, Encoding.MSGPACK) == before
    # The buffer of a long message is released.
    encode(Notification("event", {"text": "y" * (PACKER_KEEPS_BYTES + 1)}), Encoding.MSGPACK)
    assert not codec.spare_packers
    assert encode(good, Encoding.MSGPACK) == before


def test_errors_round_trip_through_maps() -> None:
    for kind in ERRORS.values():
        error = kind.__new__(kind)
        MlxdError.__init__(error, "what")
        again = error_from_map(error.to_map())
        assert type(again) is kind
        assert again.to_map() == error.to_map()
        assert again.hint


def test_the_codec_reads_and_writes_the_golden_vectors() -> None:
    valid = json.loads((golden.GOLDEN / "valid.json").read_text(encoding="utf-8"))
    assert valid == json.loads(golden.as_text(golden.valid_vectors()))
    for vector, message in zip(valid, golden.VALID.values(), strict=True):
        assert decode(bytes.fromhex(vector["msgpack_hex"]), [1] * 9) == [message]
        assert decode(vector["json_line"].encode(), [1] * 9) == [message]
    invalid = json.loads((golden.GOLDEN / "invalid.json").read_text(encoding="utf-8"))
    assert invalid == golden.invalid_vectors()


def test_the_specification_tables_are_generated_from_the_code() -> None:
    text = spec.SPEC.read_text(encoding="utf-8")
    assert spec.rendered(text) == text


def test_the_example_session_in_the_specification_is_valid() -> None:
    sent = [message for who, message in spec.session() if who == "→"]
    asked = [message for message in sent if isinstance(message, Request) and message.id != 3]
    assert asked
    for message in asked:
        validate(message.method, message.params)
