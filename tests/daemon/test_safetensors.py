"""One reader of safetensors headers: exact for real files, and clear about damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxd.daemon.models.catalog import BUILTIN_DIR
from mlxd.daemon.models.files import Unreadable
from mlxd.daemon.models.safetensors import Damaged, data_bytes, read_header

PRODUCT = Path(__file__).resolve().parents[2] / "daemon" / "mlxd"
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_with(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_the_header_of_the_built_in_model_describes_all_its_weights() -> None:
    path = BUILTIN_DIR / "model.safetensors"
    header = read_header(path)
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}
    expected = sum(int(np.prod(one["shape"])) * sizes[one["dtype"]] for one in header.values())
    assert data_bytes(header) == expected
    assert 0 < expected < path.stat().st_size


def test_metadata_is_not_a_tensor(tmp_path: Path) -> None:
    path = file_with(tmp_path / "one", {"__metadata__": {"format": "mlx"}, "w": ENTRY})
    assert read_header(path) == {"w": ENTRY}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the weights"),
        (b"<!DOCTYPE html><html></html>", "is a web page, not weights"),
        (b"\xff" * 64, "is not a safetensors file"),
        ((10**9).to_bytes(8, "little") + b"{}", "is not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "is not a safetensors file"),
        ((5).to_bytes(8, "little") + b"[[[[[", "is not a safetensors file"),
    ],
)
def test_the_reason_says_what_the_file_is(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(Damaged) as caught:
        read_header(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [8, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, True]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": None},
        {"shape": "2"},
        {"shape": [-1]},
        {"dtype": 7},
    ],
)
def test_an_invalid_entry_is_reported_with_the_name_of_its_tensor(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = file_with(tmp_path / "weights", {"fine": ENTRY, "odd": {**ENTRY, **change}})
    with pytest.raises(Damaged, match="the tensor 'odd'"):
        read_header(path)


def test_a_truncated_file_is_reported_with_both_sizes(tmp_path: Path) -> None:
    path = file_with(tmp_path / "weights", {"w": ENTRY}, data=b"\0" * 7)
    size = path.stat().st_size
    with pytest.raises(Damaged, match=f"is truncated: {size} of {size + 1} bytes"):
        read_header(path)


def test_a_folder_or_broken_link_is_unreadable_and_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(Unreadable) as caught:
            read_header(tmp_path / name)
        assert not isinstance(caught.value, Damaged)


def test_nothing_else_parses_headers() -> None:
    parsers = [
        path.name for path in PRODUCT.rglob("*.py") if "data_offsets" in path.read_text("utf-8")
    ]
    assert parsers == ["safetensors.py"]
