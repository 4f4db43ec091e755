"""An index of cached prompt prefixes. Pure: token sequences in, entry ids out.

Entries are compared as arrays. For the few hundred entries that fit into memory, a vectorised
comparison takes microseconds and needs one array per entry. A trie of token nodes would need
megabytes for a long prompt.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Tokens = np.ndarray[Any, np.dtype[np.uint32]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached prefix. If it is not trimmable, it only serves prompts that contain all of it."""

    id: int
    key: str
    tokens: Tokens
    nbytes: int
    trimmable: bool


@dataclass(frozen=True, slots=True)
class Match:
    """The entry that covers the most of a prompt, and the number of tokens that it covers."""

    entry: Entry
    tokens: int


def as_tokens(tokens: Sequence[int]) -> Tokens:
    return np.asarray(tokens, dtype=np.uint32)


def common_length(first: Tokens, second: Tokens) -> int:
    """Return the length of the common prefix."""
    size = min(len(first), len(second))
    if not size or first[0] != second[0]:
        return 0
    differ = np.flatnonzero(first[:size] != second[:size])
    return int(differ[0]) if len(differ) else size


class PrefixIndex:
    """An index with a limit in bytes. Evicts the least recently used entries first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._ids = itertools.count(1)
        self._entries: OrderedDict[int, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: str, tokens: Tokens, nbytes: int, *, trimmable: bool) -> Entry:
        """Add an entry as the most recently used. Then evict the entries in `over_budget`."""
        entry = Entry(next(self._ids), key, tokens, nbytes, trimmable)
        self._entries[entry.id] = entry
        self.nbytes += nbytes
        return entry

    def remove(self, entry_id: int) -> Entry | None:
        entry = self._entries.pop(entry_id, None)
        if entry is not None:
            self.nbytes -= entry.nbytes
        return entry

    def touch(self, entry_id: int) -> None:
        """Mark an entry as most recently used."""
        self._entries.move_to_end(entry_id)

    def longest(self, key: str, tokens: Tokens, *, most: int) -> Match | None:
        """Return the best match of at most `most` tokens, or None."""
        best: Match | None = None
        for entry in self._entries.values():
            if entry.key != key:
                continue
            size = min(common_length(entry.tokens, tokens), most)
            if not entry.trimmable and size < len(entry.tokens):
                continue
            if size > 0 and (best is None or size >= best.tokens):
                best = Match(entry, size)
        return best

    def covered(self, key: str, tokens: Tokens) -> Entry | None:
        """Return an entry that covers all of `tokens`, or None."""
        for entry in self._entries.values():
            if entry.key != key or len(entry.tokens) < len(tokens):
                continue
            if not entry.trimmable and len(entry.tokens) != len(tokens):
                continue
            if common_length(entry.tokens, tokens) == len(tokens):
                return entry
        return None

    def contained(self, key: str, tokens: Tokens) -> list[Entry]:
        """Return the trimmable entries that `tokens` covers completely."""
        return [
            entry
            for entry in self._entries.values()
            if entry.key == key
            and entry.trimmable
            and len(entry.tokens) < len(tokens)
            and common_length(entry.tokens, tokens) == len(entry.tokens)
        ]

    def over_budget(self, max_bytes: int | None = None) -> list[Entry]:
        """Return the entries to evict, least recently used first."""
        limit = self.max_bytes if max_bytes is None else max_bytes
        excess, evicted = self.nbytes - limit, []
        for entry in self._entries.values():
            if excess <= 0:
                break
            evicted.append(entry)
            excess -= entry.nbytes
        return evicted

    def of_key(self, key: str) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.key == key]
