"""Functions that damage a copy of the built-in model's folder, each in one way."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Damage = Callable[[Path], object]


def missing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def content(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, int(size * share))

    return damage


def link(name: str, target: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def unreadable(name: str) -> Damage:
    """Make a file that can be opened but not read. chmod would not stop root."""
    return link(name, "/proc/self/mem") if sys.platform == "linux" else _forbidden(name)


def _forbidden(name: str) -> Damage:
    return lambda folder: (folder / name).chmod(0)


def a_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def a_pipe(name: str) -> Damage:
    """Make a FIFO, which blocks a process that opens it."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def config(**changed: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Rewrite the safetensors header without moving the data."""

    def damage(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        tensors = json.loads(raw[8 : 8 + length])
        changed = json.dumps(change(tensors)).encode()
        (folder / WEIGHTS).write_bytes(
            struct.pack("<Q", len(changed)) + changed + raw[8 + length :]
        )

    return damage


def every_tensor(**changed: Any) -> Damage:
    return header(
        lambda tensors: {
            name: {**entry, **changed} if name != "__metadata__" else entry
            for name, entry in tensors.items()
        }
    )


def index(weight_map: Any) -> Damage:
    return content(INDEX, json.dumps({"weight_map": weight_map}).encode())


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


DEEP = b'{"a":' * 200_000

FATAL: dict[str, Damage] = {
    "folder missing": shutil.rmtree,
    "folder empty": emptied,
    "folder is a file": replaced_by_a_file,
    "config missing": missing("config.json"),
    "config empty": content("config.json", b""),
    "config cut": cut("config.json", 0.5),
    "config not UTF-8": content("config.json", b'{"model_type": "\xff\xfe"}'),
    "config with a byte order mark": lambda folder: (folder / "config.json").write_bytes(
        b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()
    ),
    "config nested too deep": content("config.json", DEEP),
    "config a list": content("config.json", b"[1, 2]"),
    "config unreadable": unreadable("config.json"),
    "config a folder": a_folder("config.json"),
    "config a pipe": a_pipe("config.json"),
    "config a dangling link": link("config.json", "/nowhere/config.json"),
    "config a link to itself": link("config.json", "config.json"),
    "config of no kind": config(model_type=7),
    "config of an unknown kind": config(model_type="no_such_model"),
    "config whose module calls sys.exit": config(model_type="olmo"),
    "config of a path": config(model_type="../../evil"),
    "config of a module that is no model": config(model_type="cache"),
    "config with its own code": config(model_file="model.py"),
    "layers a word": config(num_hidden_layers="six"),
    "layers more than tensors": config(num_hidden_layers=9_999),
    "layers without end": config(num_hidden_layers=10**9),
    "layers negative": config(num_hidden_layers=-1),
    "heads zero": config(num_attention_heads=0),
    "heads a list": config(num_attention_heads=[4], head_dim=None),
    "heads negative": config(num_key_value_heads=-2),
    "width not a number": config(hidden_size=float("nan")),
    "width a fraction": config(hidden_size=160.5),
    "width huge": config(hidden_size=2**62),
    "rotary base zero": config(rope_theta=0),
    "rotary base a word": config(rope_theta="high"),
    "norm epsilon a word": config(rms_norm_eps="small"),
    "vocabulary large": config(vocab_size=10**9),
    "vocabulary huge": config(vocab_size=2**62),
    "quantisation a word": config(quantization="four"),
    "weights missing": missing(WEIGHTS),
    "weights empty": content(WEIGHTS, b""),
    "weights cut in the header": content(WEIGHTS, b"\x10\0\0\0\0\0\0\0{"),
    "weights cut": cut(WEIGHTS, 0.5),
    "weights a web page": content(WEIGHTS, b"<html>" * 100),
    "weights a Git LFS pointer": content(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"),
    "weights with a huge header": content(WEIGHTS, b"\xff" * 8 + b"{}"),
    "weights with a header of 90 MB": content(WEIGHTS, struct.pack("<Q", 90_000_000) + b"{}"),
    "weights with a header that is no UTF-8": content(WEIGHTS, struct.pack("<Q", 4) + b"\xff" * 4),
    "weights with a deep header": content(WEIGHTS, struct.pack("<Q", len(DEEP)) + DEEP),
    "weights a dangling link": link(WEIGHTS, "/nowhere/blob"),
    "weights a link to itself": link(WEIGHTS, WEIGHTS),
    "weights a folder": a_folder(WEIGHTS),
    "weights a pipe": a_pipe(WEIGHTS),
    "weights unreadable": unreadable(WEIGHTS),
    "more weights, a dangling link": link("model-extra.safetensors", "/nowhere/blob"),
    "more weights, a folder": a_folder("model-extra.safetensors"),
    "more weights, a pipe": a_pipe("model-extra.safetensors"),
    "more weights, empty": content("model-extra.safetensors", b""),
    "tensors negative": every_tensor(shape=[-1, 160]),
    "tensors huge": every_tensor(shape=[2**62, 2**62]),
    "tensors of no shape": every_tensor(shape=None),
    "tensors of an unknown type": every_tensor(dtype="Q7"),
    "tensors that end before they begin": every_tensor(data_offsets=[100, 0]),
    "tensors beyond the file": every_tensor(data_offsets=[0, 2**62]),
    "tensors at no number": every_tensor(data_offsets=[float("nan"), float("nan")]),
    "tensors at a fraction": every_tensor(data_offsets=[0.5, 10.5]),
    "tensors larger than their bytes": every_tensor(data_offsets=[0, 2]),
    "tensors that are words": header(lambda tensors: dict.fromkeys(tensors, "tensor")),
    "no tensors": header(lambda tensors: {}),
    "index not JSON": content(INDEX, b"{"),
    "index of a word": index("model.safetensors"),
    "index of numbers": index({"a": 1, "b": None, "c": "x"}),
    "index of lists": index({"a": ["model.safetensors"]}),
    "index nested too deep": content(INDEX, DEEP),
    "index that points outside": index({"a": "../../../../etc/passwd"}),
    "index that points to an absolute path": index({"a": "/etc/passwd"}),
    "index with a missing shard": index({"a": "model-00001-of-00002.safetensors"}),
    "index a pipe": a_pipe(INDEX),
    "index a dangling link": link(INDEX, "/nowhere/index"),
    "tokenizer missing": missing("tokenizer.json"),
    "tokenizer empty": content("tokenizer.json", b""),
    "tokenizer cut": cut("tokenizer.json", 0.5),
    "tokenizer nested too deep": content("tokenizer.json", DEEP),
    "tokenizer a list": content("tokenizer.json", b"[]"),
    "tokenizer a pipe": a_pipe("tokenizer.json"),
    "tokenizer a dangling link": link("tokenizer.json", "/nowhere/tokenizer"),
    "tokenizer a folder": a_folder("tokenizer.json"),
    "tokenizer settings not JSON": content("tokenizer_config.json", b"{"),
    "tokenizer settings a list": content("tokenizer_config.json", b"[]"),
    "tokenizer settings a pipe": a_pipe("tokenizer_config.json"),
    "generation settings a list": content("generation_config.json", b"[1]"),
    "generation settings a pipe": a_pipe("generation_config.json"),
}
"""Damage that makes the model unusable. The request ends with `model_load_failed`."""

HARMLESS: dict[str, Damage] = {
    "a dangling link beside the model": link("README.md", "/nowhere/readme"),
    "a link to itself beside the model": link("notes", "notes"),
    "a pipe beside the model": a_pipe("control"),
    "weights of another tool, a dangling link": link("adapter.safetensors", "/nowhere/blob"),
    "quantisation impossible": config(quantization={"bits": -4, "group_size": 0}),
    "context not a number": config(
        rope_scaling={"factor": float("nan"), "original_max_position_embeddings": 2048}
    ),
    "context without end": config(
        rope_scaling={"factor": float("inf"), "original_max_position_embeddings": 2048}
    ),
    "generation settings not JSON": content("generation_config.json", b"{"),
    "template that fails": content("chat_template.jinja", b"{{ raise_exception('no') }}"),
    "template that cannot be parsed": content("chat_template.jinja", b"{% for %}"),
}
"""Harmless damage. The model answers."""
