"""Derives a lower bound for the number of tokens in a text from a tokenizer.

Tokenizing takes about a second per megabyte. With this bound, mlxd refuses a text that cannot fit
into the model's context without tokenizing it. The bound exists for byte-level vocabularies only,
in which every byte of the text is part of a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxd.daemon.prompt_bound import PromptBound

ASCII_SPACE = b" \t\n\r\v\f\x1c\x1d\x1e\x1f"
NOT_ASCII = bytes(range(0x80, 0x100))
DROPPING = ("Removed", "Whitespace", "Punctuation", "CharDelimiterSplit")
"""Pre-tokenizers that drop text. The description of a pre-tokenizer is searched for their names."""


def prompt_bound(
    tokenizer: Any, context_tokens: int | None, *, user_messages: bool = False
) -> PromptBound | None:
    """Return the bound of a Hugging Face tokenizer, or None if there is none.

    `user_messages`: the chat template renders every user message in full.
    """
    if context_tokens is None:
        return None
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
        # NFC composes several characters into one. At most one of them is ASCII.
        uncounted |= {*NOT_ASCII, *(ASCII_SPACE if strips else b"")}
    longest = max(len(text.encode()) for text in vocabulary)
    return PromptBound(context_tokens, longest, bytes(sorted(uncounted)), user_messages)


def _missing(vocabulary: Mapping[str, int]) -> list[int]:
    """Return the bytes that have no token. Byte-level BPE drops them."""
    return [byte for byte, letter in enumerate(_letters()) if letter not in vocabulary]


def _letters() -> list[str]:
    """Return the letter that represents each byte in byte-level vocabularies (GPT-2's table)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in shown else next(others)) for byte in range(0x100)]
