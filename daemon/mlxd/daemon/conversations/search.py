"""Splits a search into terms for the full-text index and terms that need a scan.

SQLite's index (FTS5, tokenizer `unicode61`) contains words that are separated by spaces, and finds
them by prefix. It finds no words inside a run of Chinese, Japanese, Thai and other scripts without
spaces, and it contains no symbols. Terms with such characters are searched as substrings of the
turns. The trigram tokenizer does not help: it finds nothing shorter than three characters, and most
Chinese words have two.
"""

from __future__ import annotations

import string
import unicodedata
from dataclasses import dataclass

from mlxd.protocol.errors import InvalidParams

MAX_TERMS = 32
"""SQLite's parser of search expressions fails at about 100 terms."""

SNIPPET_BEFORE = 24
SNIPPET_CHARACTERS = 80

_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul letters
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # radicals, kana, Bopomofo
    (0x3130, 0x31FF),  # Hangul letters, more kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),  # Yi
    (0xAC00, 0xD7FF),  # Hangul: spaces separate phrases, not words
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFFDC),  # half-width kana and Hangul
    (0x1B000, 0x1B16F),  # old kana
    (0x20000, 0x3FFFF),  # Han
)
_LOOKS_ONLY = "\ufe0e\ufe0f"
"""Variation selectors. ❤ and ❤️ are the same character in text and colour style."""

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed search.

    `match` is an expression for the index, or "". `parts` are substrings in lower case, converted
    as SQLite's `lower` does (ASCII only).
    """

    match: str
    parts: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.match or self.parts)


def parse(text: str) -> Query:
    """Return the query for a search text. No character in it is an operator.

    Raises:
        InvalidParams: the text has more than `MAX_TERMS` words.
    """
    indexed: list[str] = []
    parts: list[str] = []
    # SQLite ends the expression at a NUL.
    terms = text.replace("\0", " ").split()
    if len(terms) > MAX_TERMS:
        raise InvalidParams("query", f"has {len(terms)} words; at most {MAX_TERMS} are allowed")
    for term in terms:
        if _needs_scan(term):
            part = "".join(char for char in term if char not in _LOOKS_ONLY)
            parts += [part.translate(_ASCII_LOWER)] if part else []
        else:
            indexed.append('"' + term.replace('"', '""') + '"*')
    return Query(" ".join(indexed), tuple(parts))


def snippet(texts: list[str], query: str) -> str:
    """Return the text around the first search term in `texts`, on one line."""
    terms = [term.translate(_ASCII_LOWER) for term in query.split()]
    for text in texts:
        folded = text.translate(_ASCII_LOWER)
        places = [at for term in terms if (at := folded.find(term)) >= 0]
        if places:
            return _cut(text, min(places))
    return _cut(texts[0] if texts else "", 0)


def _cut(text: str, at: int) -> str:
    start = max(0, at - SNIPPET_BEFORE)
    end = start + SNIPPET_CHARACTERS
    before, after = "…" if start else "", "…" if end < len(text) else ""
    return before + " ".join(text[start:end].split()) + after


def _needs_scan(term: str) -> bool:
    if any(_is_unspaced(char) or unicodedata.category(char)[0] == "S" for char in term):
        return True
    return not any(char.isalnum() for char in term)  # the index contains no such term


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return code >= _WITHOUT_SPACES[0][0] and any(
        low <= code <= high for low, high in _WITHOUT_SPACES
    )


def hits(query: Query) -> tuple[str, list[str]]:
    """Return SQL for the matching turns (number, rank, question, answer), and its values."""
    where = ["words MATCH ?"] if query.match else []
    values = [query.match] if query.match else []
    for part in query.parts:
        where.append("(instr(lower(t.question), ?) OR instr(lower(t.answer), ?))")
        values += [part, part]
    ranked = "JOIN words ON words.rowid = t.number" if query.match else ""
    rank = "words.rank" if query.match else "0"
    return (
        f"SELECT t.number, {rank} AS rank, t.question, t.answer FROM turns t {ranked} "
        f"WHERE {' AND '.join(where)}",
        values,
    )
