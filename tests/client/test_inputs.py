"""Decoding of input by its byte order mark, with a size limit."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.client.cli import inputs
from mlxd.client.cli.failures import Misuse
from mlxd.protocol.errors import InvalidParams

MARKED = ("utf-8-sig", "utf-16", "utf-32")


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff")))
def test_every_encoding_with_a_byte_order_mark_is_decoded(text: str) -> None:
    for encoding in MARKED:
        assert inputs.as_text(text.encode(encoding), "f") == text
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert inputs.as_text(mark + text.encode(encoding), "f") == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"caf\xe9", "UTF-8 (byte 3 is 0xe9)"),
        (b"\xef\xbb\xbfcaf\xe9", "UTF-8 (byte 6 is 0xe9)"),
        (b"\xff\xfea\0b", "UTF-16-LE (byte 4 is 0x62)"),
        (b"a\0b", "is binary"),
    ],
)
def test_undecodable_input_is_refused_with_the_offset(raw: bytes, said: str) -> None:
    with pytest.raises(Misuse) as caught:
        inputs.as_text(raw, "notes.txt")
    assert "notes.txt" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


def test_endless_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "INPUT_MAX_BYTES", 1000)
    with pytest.raises(InvalidParams, match="/dev/zero has more than"):
        inputs.read_file("/dev/zero")


@pytest.mark.parametrize("name", ["nosuch", "/", "a\0b"])
def test_a_file_that_cannot_be_read_is_reported_by_name(name: str) -> None:
    with pytest.raises(Misuse, match="cannot be read"):
        inputs.read_file(name)


def test_same_file_recognises_a_symlink(tmp_path: Path) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    one.write_text("x")
    link.symlink_to(one)
    assert inputs.same_file(str(one), str(link))
    assert not inputs.same_file(str(one), str(tmp_path / "two"))
    assert not inputs.same_file("/dev/null", "/dev/null")
