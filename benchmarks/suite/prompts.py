"""Texts with a given number of tokens."""

from __future__ import annotations

import random
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(key: str, count: int) -> list[str]:
    """Return generated words that depend on the key only."""
    source = random.Random(key)
    return ["".join(source.choices(LETTERS, k=source.randint(2, 7))) for _ in range(count)]


def text_of(tokenizer: Any, tokens: int, key: str) -> str:
    """Return a text of exactly `tokens` tokens. Texts of different keys share no prefix."""
    text = " ".join(words(key, tokens))
    kept = tokenizer.encode(text).ids[:tokens]
    text = tokenizer.decode(kept)
    # A text that is cut inside a word may tokenize differently. Add the missing tokens by single
    # letters.
    for letter in LETTERS * 2:
        missing = tokens - len(tokenizer.encode(text).ids)
        if not missing:
            return str(text)
        text = text[:-2] if missing < 0 else f"{text} {letter}"
    raise ValueError(f"no text of {tokens} tokens found for {key!r}")
