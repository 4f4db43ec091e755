"""The models of the suite: pocket without an end token, and random weights in Qwen3's architecture.

Random weights cost exactly as much computation as trained ones. The embedding rows of end tokens
and of pieces that are not plain text are zero, so that a greedy answer never ends early and every
token is text. The tokenizer is pocket's with made-up merges added.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from suite import places
from suite.machine import ROOT

POCKET = ROOT / "daemon" / "mlxd" / "daemon" / "models" / "pocket"
WORKER = Path(__file__).with_name("recipe_worker.py")
VOCABULARY = 16_384
RECIPE = 2  # increase it when the output changes


@dataclass(frozen=True)
class Model:
    """One model of the suite. `bits` is None for float32."""

    name: str
    parameters: int
    bits: int | None = None
    shape: tuple[int, int, int, int, int] | None = None
    """Width, layers, heads, KV heads, and width of the feed-forward layers. None: pocket's."""

    @property
    def path(self) -> Path:
        return places.MODELS / self.name

    @property
    def gguf(self) -> Path:
        return places.MODELS / f"{self.name}.gguf"

    @property
    def is_small(self) -> bool:
        """Whether a second thread does not speed up matrix products with few rows."""
        return self.shape is None

    @cached_property
    def tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.path / "tokenizer.json"))

    def prompt(self, tokens: int, key: str) -> str:
        """Return a text of exactly this many tokens. Texts of different keys share no prefix."""
        from suite.prompts import text_of

        return text_of(self.tokenizer, tokens, key)


_25M = (384, 11, 6, 2, 1152)
_60M = (512, 16, 8, 4, 1536)
ALL = {
    model.name: model
    for model in (
        Model("pocket", 2_900_000),
        Model("random-25m", 25_000_000, shape=_25M),
        Model("random-60m", 60_000_000, shape=_60M),
        Model("random-25m-4bit", 25_000_000, bits=4, shape=_25M),
        Model("random-60m-4bit", 60_000_000, bits=4, shape=_60M),
    )
}


def build(model: Model, *, gguf: bool = False) -> None:
    """Build the model's folder, and its GGUF file for llama.cpp, if they do not exist."""
    stamp = model.path / "recipe.json"
    wanted = json.dumps({"recipe": RECIPE, "shape": model.shape, "bits": model.bits})
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(model.path, ignore_errors=True)
        model.gguf.unlink(missing_ok=True)
        model.path.mkdir(parents=True)
        if model.shape is None:
            _endless_pocket(model.path)
        else:
            _random(model)
        stamp.write_text(wanted)
    if gguf and model.bits is None and not model.gguf.exists():
        _run([places.llama_python(), str(WORKER), "gguf", str(model.path), str(model.gguf)])


def _endless_pocket(folder: Path) -> None:
    """Copy pocket with an end token that it never generates, for answers of a given length."""
    for file in POCKET.iterdir():
        if file.suffix in (".json", ".safetensors"):
            shutil.copy(file, folder)
    _edit(folder / "config.json", eos_token_id=6)
    _edit(folder / "generation_config.json", eos_token_id=6)
    _edit(folder / "tokenizer_config.json", eos_token="<|fim_pad|>")


def _random(model: Model) -> None:
    assert model.shape is not None
    width, layers, heads, kv_heads, inner = model.shape
    for name in ("tokenizer_config.json", "generation_config.json"):
        shutil.copy(POCKET / name, model.path)
    tokenizer = larger_tokenizer(json.loads((POCKET / "tokenizer.json").read_text()))
    (model.path / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(POCKET / "config.json", model.path)
    _edit(
        model.path / "config.json", vocab_size=VOCABULARY, hidden_size=width,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=inner,
    )  # fmt: skip
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    silent = [number for piece, number in vocabulary.items() if not is_text(piece)]
    order = {"folder": str(model.path), "bits": model.bits, "silent": silent}
    _run([places.mlx_python(), str(WORKER), "mlx"], json.dumps(order))


def is_text(piece: str) -> bool:
    """Whether a piece consists of letters, optionally after the space marker."""
    letters = piece.removeprefix("Ġ")
    return letters.isascii() and letters.isalpha()


def larger_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer with additional merges of its pieces, up to the vocabulary size."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    merges: list[list[str]] = tokenizer["model"]["merges"]
    heads = [piece for piece in vocabulary if is_text(piece) and piece.lower() == piece]
    tails = [piece for piece in heads if not piece.startswith("Ġ")]
    for first, second in itertools.product(heads, tails):
        if len(vocabulary) == VOCABULARY:
            break
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            merges.append([first, second])
    assert len(vocabulary) == VOCABULARY
    return tokenizer


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2))


def _run(command: list[str], text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True, env=places.mlx_environ())
