"""Output that follows a JSON Schema, a regular expression or a Lark grammar, by `llguidance`.

Compiled off the compute thread and kept; a state walks along one sequence and says, before each
token, which ones may come.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np

from mlxd.protocol.errors import ConstraintInvalid

CACHE_ENTRIES = 64
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ConstraintState:
    """The place of one sequence in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary)

    def mask(self) -> Mask:
        """Return which tokens may come next, shape (vocabulary,). Call `advance` after."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits, 0)
        unpacked = np.unpackbits(self._bits[0].view(np.uint8), bitorder="little")
        return unpacked[: self._vocabulary].astype(np.bool_)

    def advance(self, token: int) -> None:
        """Take in the token that was chosen. A forbidden one leaves the state as it is."""
        if not self._matcher.is_stopped():
            self._matcher.try_consume_tokens([token])

    @property
    def accepting(self) -> bool:
        """Whether the text so far is complete."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self._matcher.is_stopped())


class Constraint:
    """A compiled grammar; `start` begins a new sequence."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self) -> ConstraintState:
        return ConstraintState(self._matcher.deep_copy(), self._vocabulary)


class ConstraintCompiler:
    """Compiles for one tokenizer. Safe to call from several threads.

    Raises:
        ConstraintInvalid: the tokenizer is none that llguidance can read.
    """

    def __init__(
        self,
        hf_tokenizer: Any,
        n_vocab: int,
        eos_token_ids: list[int],
        cache_entries: int = CACHE_ENTRIES,
    ) -> None:
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(
                hf_tokenizer, n_vocab=n_vocab, eos_token=eos_token_ids or None
            )
        except ValueError as exc:
            raise ConstraintInvalid(
                f"Constraints do not work with the model's tokenizer: {_reason(exc)}",
                hint="Leave schema, regex and grammar out, or choose another model.",
            ) from exc
        self._vocabulary = n_vocab
        self._entries = cache_entries
        self._cache: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def compile(
        self, kind: str, source: dict[str, Any] | bool | str, *, whitespace_flexible: bool = False
    ) -> Constraint:
        """Return the constraint; `kind` is schema, regex or grammar.

        Raises:
            ConstraintInvalid: with the reason that llguidance gives.
        """
        # In the order given: the text has its properties in the order of the schema.
        key = json.dumps([kind, source, whitespace_flexible])
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        constraint = self._compile(kind, source, whitespace_flexible)
        with self._lock:
            self._cache[key] = constraint
            while len(self._cache) > self._entries:
                self._cache.popitem(last=False)
        return constraint

    def _compile(
        self, kind: str, source: dict[str, Any] | bool | str, whitespace_flexible: bool
    ) -> Constraint:
        try:
            grammar = _grammar(kind, source, whitespace_flexible)
        except (ValueError, TypeError) as exc:
            raise ConstraintInvalid(f"The {kind} is refused: {_reason(exc)}") from exc
        if refusal := llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise ConstraintInvalid(f"The {kind} is refused: {_reason(refusal)}")
        matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise ConstraintInvalid(f"The {kind} is refused: {_reason(matcher.get_error())}")
        constraint = Constraint(matcher, self._vocabulary)
        if not constraint.start().mask().any():
            raise ConstraintInvalid(f"The {kind} allows no text at all.")
        return constraint


def _grammar(kind: str, source: dict[str, Any] | bool | str, whitespace_flexible: bool) -> str:
    matcher = llguidance.LLMatcher
    if kind == "schema":
        if source is False:
            raise ValueError("false allows nothing")
        if isinstance(source, str):
            raise TypeError("a JSON Schema is an object, true or false")
        schema: dict[str, Any] = {} if source is True else dict(source)
        # Free white space is a place where a weak model loses itself.
        schema.setdefault("x-guidance", {"whitespace_flexible": whitespace_flexible})
        return str(matcher.grammar_from_json_schema(schema))
    if kind == "regex":
        return str(matcher.grammar_from_regex(str(source)))
    return str(matcher.grammar_from_lark(str(source)))


def _reason(problem: object) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines)[:500] or "no reason given"
