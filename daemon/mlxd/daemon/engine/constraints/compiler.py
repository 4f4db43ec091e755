"""Constrains output to a JSON Schema, a regular expression or a Lark grammar with `llguidance`.

Constraints are compiled on their own threads, within a time limit, and cached. A state follows one
sequence and returns, before each token, the allowed next tokens.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np

from mlxd.daemon.engine.constraints.schema_audit import exact, unenforced
from mlxd.protocol.errors import ConstraintInvalid, MlxdError, Overloaded

CACHE_ENTRIES = 64
COMPILE_THREADS = 4
"""Threads that compile. A schema that takes minutes must not delay the others."""
COMPILE_LIMIT_S = 10.0
"""Ordinary schemas take a thousandth of this. Hostile ones can keep llguidance busy for minutes."""
COMPILE_NICENESS = 10
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ConstraintState:
    """The state of one sequence in its grammar."""

    def __init__(
        self, matcher: llguidance.LLMatcher, vocabulary: int, first_mask: Mask | None = None
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._first_mask = first_mask

    def mask(self) -> Mask:
        """Return a mask of the allowed next tokens, shape (vocabulary,). Call `advance` afterwards.

        If the text is complete or the grammar has failed, only the end token is allowed.
        """
        if self._first_mask is not None:
            return self._first_mask
        bits = llguidance.numpy.allocate_token_bitmask(1, self._vocabulary)
        llguidance.numpy.fill_next_token_bitmask(self._matcher, bits, 0)
        unpacked = np.unpackbits(bits[0].view(np.uint8), bitorder="little")
        return unpacked[: self._vocabulary].astype(np.bool_)

    def advance(self, token: int) -> None:
        """Advance by the chosen token. A forbidden token does not change the state."""
        self._first_mask = None
        if not self._matcher.is_stopped():
            self._matcher.try_consume_tokens([token])

    @property
    def accepting(self) -> bool:
        """Whether the text is complete."""
        return not self.failure and bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether only the end token may follow."""
        return bool(self._matcher.is_stopped())

    @property
    def failure(self) -> str:
        """The limit of llguidance that made the grammar fail, or ""."""
        return _reason(self._matcher.get_error()) if self._matcher.is_error() else ""


class Guide:
    """Constrains one answer to its grammar, starting after its reasoning.

    `think_end` are the tokens that end the reasoning with which the answer begins. Empty: it begins
    with the constrained text. `may_think` is the token with which the answer may begin its
    reasoning, which `think_end_after` ends.
    """

    def __init__(
        self,
        state: ConstraintState,
        *,
        think_end: tuple[int, ...] = (),
        may_think: int | None = None,
        think_end_after: tuple[int, ...] = (),
    ) -> None:
        self.state = state
        self._think_end = think_end
        self._may_think = may_think
        self._think_end_after = think_end_after
        self._tail: tuple[int, ...] = ()
        self._fed = -1

    def next_mask(self, token: int) -> Mask | None:
        """Advance by the token that is fed now.

        Return the next mask, or None if every token is allowed.

        The first token is the last one of the prompt and not part of the answer.
        """
        self._fed += 1
        if self._fed == 1 and self._may_think is not None and token == self._may_think:
            self._think_end = self._think_end_after
            return None
        if self._think_end:
            return self._mask_in_reasoning(token)
        if self._fed > 0:
            self.state.advance(token)
        mask = self.state.mask()
        if self._fed == 0 and self._may_think is not None:
            mask = mask.copy()
            mask[self._may_think] = True
        return mask

    def _mask_in_reasoning(self, token: int) -> Mask | None:
        if self._fed > 0:
            self._tail = (*self._tail, token)[-len(self._think_end) :]
        if self._tail != self._think_end:
            return None
        self._think_end = ()
        self._may_think = None
        return self.state.mask()

    def verdict(self) -> str:
        """Return a note for an answer that ends now, or "" if its text is complete."""
        if reason := self.state.failure:
            return f"the constraint was too complex to follow to its end ({reason})"
        if self._think_end or not self.state.accepting:
            return "the text does not satisfy the constraint yet"
        return ""

    @property
    def failed(self) -> bool:
        return bool(self.state.failure)


class Constraint:
    """A compiled grammar. `start` begins a new sequence. `notes` list what it does not enforce."""

    def __init__(
        self, matcher: llguidance.LLMatcher, vocabulary: int, notes: tuple[str, ...] = ()
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self.notes = notes
        begun = ConstraintState(matcher.deep_copy(), vocabulary)
        # The first mask requires the whole grammar. Compute it here, on the compiling thread.
        self._first_mask = begun.mask()
        self.possible = bool(self._first_mask.any()) and not begun.failure
        """Whether any text satisfies it."""

    def start(self) -> ConstraintState:
        """Return the initial state of a new sequence."""
        return ConstraintState(self._matcher.deep_copy(), self._vocabulary, self._first_mask)


def compile_pool(threads: int = COMPILE_THREADS) -> ThreadPoolExecutor:
    """Return the threads that compile. On Linux they have the lowest priority."""
    return ThreadPoolExecutor(threads, "constraint", initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":  # where each thread has its own priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COMPILE_NICENESS)


class ConstraintCompiler:
    """Compiles constraints for one tokenizer. Thread-safe.

    Raises:
        ConstraintInvalid: llguidance cannot read the tokenizer.
    """

    def __init__(
        self,
        hf_tokenizer: Any,
        n_vocab: int,
        eos_token_ids: list[int],
        pool: ThreadPoolExecutor,
        cache_entries: int = CACHE_ENTRIES,
        *,
        control_tokens: Mapping[str, int] | None = None,
    ) -> None:
        """`control_tokens` maps texts to ids.

        These tokens never match text that looks like them.
        """
        self._control = dict(control_tokens or {})
        try:
            # As in `llguidance.hf`, which would import transformers.
            self._tokenizer = llguidance.LLTokenizer(
                _without_texts(hf_tokenizer.backend_tokenizer.to_str(), self._control),
                n_vocab=n_vocab,
                eos_token=eos_token_ids or hf_tokenizer.eos_token_id,
            )
        except (AttributeError, ValueError) as exc:
            raise ConstraintInvalid(
                f"Constraints do not work with the model's tokenizer: {_reason(exc)}",
                hint="Leave schema, regex and grammar out, or choose another model.",
            ) from exc
        self._vocabulary = n_vocab
        self._pool = pool
        self._entries = cache_entries
        self._cache: OrderedDict[tuple[str, str], Future[Constraint]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, kind: str, source: Any) -> Future[Constraint]:
        """Return a future for the constraint. `kind` is schema, regex, grammar or tool_choice.

        Equal constraints are compiled only once, also if they are refused. The future fails with
        ConstraintInvalid and llguidance's reason.
        """
        # Keys keep their order, because properties in the text follow the order of the schema.
        text = source if isinstance(source, str) and kind != "schema" else json.dumps(source)
        with self._lock:
            known = self._cache.get((kind, text))
            if known is not None:
                self._cache.move_to_end((kind, text))
                return known
            future = self._pool.submit(self._compile, kind, text)
            self._cache[kind, text] = future
            while len(self._cache) > self._entries:
                self._cache.popitem(last=False)
            return future

    def compile(self, kind: str, source: Any) -> Constraint:
        """Return the constraint once it is compiled. Raises ConstraintInvalid."""
        return self.begin(kind, source).result()

    def _compile(self, kind: str, text: str) -> Constraint:
        try:
            if kind == "grammar":
                text = _with_ids(text, self._control)
            grammar, notes = GRAMMARS[kind](text)
        except (ValueError, TypeError, RecursionError) as exc:
            raise _refused(kind, exc) from exc
        # Releases the GIL while it works, unlike `validate_grammar`.
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise _refused(kind, matcher.get_error())
        notes += tuple(f"{kind}: {_reason(warning)}" for warning in matcher.get_grammar_warnings())
        constraint = Constraint(matcher, self._vocabulary, notes)
        if not constraint.possible:
            raise ConstraintInvalid(
                f"The {kind} allows no text at all.",
                hint=f"Check the {kind} for parts that exclude each other or refer to themselves.",
            )
        return constraint


def deliver(
    future: Future[Constraint],
    done: Callable[[Constraint | None, MlxdError | None], None],
    limit_s: float = COMPILE_LIMIT_S,
) -> None:
    """Call `done` once: with the constraint, its error, or an error that the time limit passed."""
    if future.done():
        done(*_outcome(future))
        return
    once = threading.Lock()

    def finish(result: tuple[Constraint | None, MlxdError | None]) -> None:
        if once.acquire(blocking=False):
            timer.cancel()
            done(*result)

    timer = threading.Timer(limit_s, lambda: finish((None, _too_long(future, limit_s))))
    timer.daemon = True
    timer.start()
    future.add_done_callback(lambda one: finish(_outcome(one)))


def _outcome(future: Future[Constraint]) -> tuple[Constraint | None, MlxdError | None]:
    error = future.exception()
    if error is None:
        return future.result(), None
    if isinstance(error, MlxdError):
        return None, error
    return None, ConstraintInvalid(f"It cannot be compiled: {_reason(error)}")


def _too_long(future: Future[Constraint], limit_s: float) -> MlxdError:
    if not future.running():
        return Overloaded("Other constraints are still being compiled.")
    return ConstraintInvalid(
        f"The constraint takes more than {limit_s:g} seconds to compile.",
        hint="Make it smaller: fewer optional properties, shorter bounds, no large multipleOf.",
    )


def _without_texts(description: str, control: Mapping[str, int]) -> str:
    """Return a tokenizer's JSON in which control tokens have names that occur in no text.

    llguidance tokenizes text that a grammar determines. It would use the token for `<think>` in a
    literal, which the grammar then does not accept.
    """
    tokenizer = json.loads(description)
    tokenizer["truncation"] = tokenizer["padding"] = None
    names = {text: f"\ue000{number}\ue001" for text, number in control.items()}
    for token in tokenizer["added_tokens"]:
        if token["content"] in names:
            token["content"] = names[token["content"]]
            token["special"], token["normalized"] = True, False
    model = tokenizer["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(text, text): at for text, at in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(text, text), *rest] for text, *rest in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    tokenizer["post_processor"] = None  # it refers to tokens by name, and grammars do not need it
    return json.dumps(tokenizer, ensure_ascii=False)


_LARK_PARTS = re.compile(
    r"""(?P<other>"(?:\\.|[^"\\\n])*"|/(?![/*])(?:\\.|[^/\\\n])+/|//[^\n]*)|(?P<token><[^<>\s]+>)"""
)


def _with_ids(lark: str, control: Mapping[str, int]) -> str:
    """Return the grammar with ids for the control tokens outside of its literals."""

    def known(found: re.Match[str]) -> str:
        name = found["token"]
        return f"<[{control[name]}]>" if name in control else found[0]

    return _LARK_PARTS.sub(known, lark)


def _limits() -> llguidance.LLParserLimits:
    # Errors with the parser's state would include the user's text.
    return llguidance.LLParserLimits(verbose_errors=False)


def _schema_grammar(text: str) -> tuple[str, tuple[str, ...]]:
    schema = json.loads(text)
    if schema is False:
        raise ValueError("false allows nothing")
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise TypeError("a JSON Schema is an object, true or false")
    # One space, as in JSON that models were trained on. With unlimited white space, weak models
    # never end.
    schema.setdefault("x-guidance", {"whitespace_pattern": "[ ]?"})
    schema, notes = exact(schema)
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    return str(grammar), (*notes, *unenforced(schema))


def _regex_grammar(text: str) -> tuple[str, tuple[str, ...]]:
    return str(llguidance.LLMatcher.grammar_from_regex(text)), ()


def _lark_grammar(text: str) -> tuple[str, tuple[str, ...]]:
    return str(llguidance.LLMatcher.grammar_from_lark(text)), ()


def _call_grammar(text: str) -> tuple[str, tuple[str, ...]]:
    source = json.loads(text)
    return str(llguidance.LLMatcher.grammar_from_lark(source["lark"])), tuple(source["notes"])


GRAMMARS: dict[str, Callable[[str], tuple[str, tuple[str, ...]]]] = {
    "schema": _schema_grammar,
    "regex": _regex_grammar,
    "grammar": _lark_grammar,
    "tool_choice": _call_grammar,
}
"""Maps a kind of constraint to a function that returns its grammar, and notes on what is not
enforced."""


def _refused(kind: str, problem: object) -> ConstraintInvalid:
    return ConstraintInvalid(f"The {kind} is refused: {_reason(problem)}")


def _reason(problem: object) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines)[:500] or "no reason given"
