"""Loads tokenizers and tokenizes prompts on two threads: one for short texts, one for long ones.

Constraints are compiled on further threads, so that a slow one does not delay other prompts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mlxd.daemon.engine.backend.shortages import shortage
from mlxd.daemon.engine.cancellation import Cancellation
from mlxd.daemon.engine.constraints.compiler import Constraint, compile_pool, deliver
from mlxd.daemon.engine.generation import GenerationRequest
from mlxd.daemon.engine.link import Inbox
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt, Prompt, TextPrompt
from mlxd.daemon.engine.request import Prepared
from mlxd.daemon.engine.tokenization.prompts import prepare
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import Internal, MlxdError

LONG_TEXT_CHARACTERS = 1 << 16
"""Longer texts, which take more than 60 ms to tokenize, go to the thread for long texts."""
TOKENIZERS_MAX = 8
"""Tokenizers in memory. One with a large vocabulary takes about 100 MB."""


@dataclass(frozen=True, slots=True)
class PromptReady:
    """Put into the inbox when a request's prompt is ready or has failed."""

    request_id: int
    prepared: Prepared | None
    error: MlxdError | None = None


@dataclass(frozen=True, slots=True)
class TokenizerReady:
    """Put into the inbox when a model's tokenizer is loaded or has failed to load."""

    key: str
    tokenizer: Tokenizer | None
    error: MlxdError | None = None


class Preparer:
    """Owns the two threads. Puts its results into the inbox of the compute thread."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._pool_for_long = ThreadPoolExecutor(1, thread_name_prefix="prepare-long")
        self._compiling = compile_pool()
        self._tokenizers: OrderedDict[str, Tokenizer] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def load(self, ref: ModelRef) -> None:
        """Load a tokenizer; the inbox gets `TokenizerReady`."""

        def work() -> None:
            tokenizer, error = _caught(lambda: self._tokenizer(ref))
            self._inbox.put(TokenizerReady(ref.key, tokenizer, error))

        self._pool.submit(work)

    def prepare(self, request: GenerationRequest, cancellation: Cancellation) -> None:
        """Tokenize the request's prompt; the inbox gets `PromptReady` unless it is cancelled."""

        def work() -> None:
            if cancellation.cancelled:  # the request ended while it waited for the thread
                return
            result, error = _caught(lambda: self._prompt_and_constraint(request))
            if result is None:
                self._inbox.put(PromptReady(request.request_id, None, error))
                return
            prepared, constraint = result
            if constraint is None:
                self._inbox.put(PromptReady(request.request_id, prepared))
                return
            deliver(constraint, lambda *outcome: self._constrained(request, prepared, *outcome))

        self._pool_for(request.prompt.characters).submit(work)

    def _pool_for(self, characters: int) -> ThreadPoolExecutor:
        return self._pool_for_long if characters > LONG_TEXT_CHARACTERS else self._pool

    def _prompt_and_constraint(
        self, request: GenerationRequest
    ) -> tuple[Prepared, Future[Constraint] | None]:
        tokenizer = self._tokenizer(request.ref)
        return prepare(tokenizer, request), tokenizer.constraints.begin(request.params)

    def _constrained(
        self,
        request: GenerationRequest,
        prepared: Prepared,
        constraint: Constraint | None,
        error: MlxdError | None,
    ) -> None:
        if constraint is not None:
            notes = [*prepared.notes, *constraint.notes]
            if request.params.tools.offered and not request.params.tools.forced:
                notes.append("the answer follows the constraint, so no tool can be called")
            prepared = replace(prepared, constraint=constraint, notes=tuple(notes))
        self._inbox.put(PromptReady(request.request_id, None if error else prepared, error))

    def answer(
        self,
        work: Callable[[Tokenizer], Any],
        ref: ModelRef,
        done: Callable[[Any, MlxdError | None], None],
        characters: int,
    ) -> Future[None]:
        """Call `work` with the model's tokenizer, then `done(result, error)`, on one thread.

        The number of characters chooses the thread.
        """
        return self._pool_for(characters).submit(
            lambda: done(*_caught(lambda: work(self._tokenizer(ref))))
        )

    def forget(self, path: str) -> None:
        """Drop the tokenizer of an unloaded model."""
        with self._lock:
            self._tokenizers.pop(path, None)

    def _tokenizer(self, ref: ModelRef) -> Tokenizer:
        # One at a time: loading replaces modules during imports, and takes memory.
        with self._loading:
            return self._known(ref) or self._loaded(ref)

    def _known(self, ref: ModelRef) -> Tokenizer | None:
        with self._lock:
            known = self._tokenizers.get(ref.path)
            if known is not None:
                self._tokenizers.move_to_end(ref.path)
            return known

    def _loaded(self, ref: ModelRef) -> Tokenizer:
        tokenizer = Tokenizer(ref, self._compiling)
        with self._lock:
            self._tokenizers[ref.path] = tokenizer
            while len(self._tokenizers) > TOKENIZERS_MAX:
                self._tokenizers.popitem(last=False)
        return tokenizer


def _caught(work: Callable[[], Any]) -> tuple[Any, MlxdError | None]:
    try:
        return work(), None
    except BaseException as exc:  # also SystemExit: the request must get an answer.
        if (error := shortage(exc)) is not None:
            return None, error
        if isinstance(exc, MlxdError):
            return None, exc
        return None, Internal(f"Preparing the request failed: {type(exc).__name__}: {exc}")


def tokenize(tokenizer: Tokenizer, prompt: Prompt) -> dict[str, Any]:
    """Return the result of the method `tokenize`."""
    if isinstance(prompt, ChatPrompt):
        tokens = tokenizer.encode_chat(tokenizer.chat.text(prompt)[0])
    else:
        assert isinstance(prompt, TextPrompt)
        tokens = tokenizer.encode(prompt.text)
    return {"tokens": tokens, "count": len(tokens)}


def detokenize(tokenizer: Tokenizer, tokens: Sequence[int]) -> dict[str, Any]:
    """Return the result of the method `detokenize`."""
    # A tokenizer may have more ids than its model, and `tokenize` returns them.
    if max(tokens, default=0) >= len(tokenizer.wrapper):
        tokenizer.check_ids("tokens", tokens)
    return {"text": tokenizer.wrapper.decode(list(tokens))}
