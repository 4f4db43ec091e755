"""How many tokens a text has at the least, without tokenizing it.

Tokenizing takes about a second per megabyte. A text that cannot fit into the model's context is
refused by this bound. It holds for byte-level vocabularies, where no token is longer than the
longest one; for other tokenizers there is no bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ASCII_SPACE = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"
NOT_ASCII = bytes(range(0x80, 0x100))
DROPPING = ("Removed", "Whitespace", "Punctuation", "CharDelimiterSplit")
"""Parts of a pre-tokenizer's description that may drop text."""


@dataclass(frozen=True, slots=True)
class SizeBound:
    """`longest_bytes` of one token, and the bytes of a text that may not become tokens."""

    longest_bytes: int
    uncounted: bytes

    def tokens_at_least(self, text: str) -> int:
        """Return a number of tokens that the text has in any case."""
        counted = text.encode("utf-8", "ignore").translate(None, self.uncounted)
        return -(-len(counted) // self.longest_bytes)


def size_bound(tokenizer: Any) -> SizeBound | None:
    """Return the bound of a Hugging Face tokenizer, or None where nothing can be said."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE":
        return None
    splitter, normalizer = repr(backend.pre_tokenizer), backend.normalizer
    if "ByteLevel" not in splitter or any(word in splitter for word in DROPPING):
        return None
    if normalizer is not None and type(normalizer).__name__ != "NFC":
        return None
    added = backend.get_added_tokens_decoder().values()
    strips = any(token.lstrip or token.rstrip for token in added)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    uncounted = set(_missing(vocabulary))
    if strips or normalizer is not None:
        # NFC makes one character of several, of which at most one is ASCII.
        uncounted |= {*NOT_ASCII, *(ASCII_SPACE if strips else b"")}
    longest = max(len(text.encode()) for text in vocabulary)
    return SizeBound(longest, bytes(sorted(uncounted)))


def _missing(vocabulary: Mapping[str, int]) -> list[int]:
    """Return the bytes that no token stands for: byte-level BPE drops them."""
    return [byte for byte, letter in enumerate(_letters()) if letter not in vocabulary]


def _letters() -> list[str]:
    """Return the letter of every byte in byte-level vocabularies, as GPT-2 chose them."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(0x100)]
