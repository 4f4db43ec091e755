"""Loads tokenizers and tokenizes prompts on two threads: one for short texts, one for long ones.

Constraints are compiled on further threads, so that a slow one does not delay other prompts. A
tokenizer that does not return is given up, and another thread takes the place of its thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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
from mlxd.daemon.engine.tokenization.task_thread import TaskThread
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import Internal, MlxdError

LONG_TEXT_CHARACTERS = 1 << 16
"""Longer texts, which take more than 60 ms to tokenize, go to the thread for long texts."""
TOKENIZING_LIMIT_S = 30.0
TOKENIZING_LIMIT_S_PER_MB = 30.0
"""A tokenizer takes about a second per megabyte, and many times as long on a busy machine."""
TOKENIZERS_MAX = 8
"""Maximum number of tokenizers in memory. One with a large vocabulary takes about 100 MB."""


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
    """Owns the two threads. Puts their results into the inbox of the compute thread."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._thread = TaskThread("prepare")
        self._thread_for_long = TaskThread("prepare-long")
        self._compiling = compile_pool()
        self._tokenizers: OrderedDict[str, Tokenizer] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def load(self, ref: ModelRef) -> None:
        """Load a tokenizer. The inbox receives a `TokenizerReady`."""

        def work() -> None:
            tokenizer, error = _caught(lambda: self._tokenizer(ref))
            self._inbox.put(TokenizerReady(ref.key, tokenizer, error))

        self._thread.submit(work)

    def prepare(self, request: GenerationRequest, cancellation: Cancellation) -> None:
        """Tokenize the request's prompt. The inbox receives a `PromptReady` unless it is
        cancelled."""

        thread = self._thread_for(request.prompt.characters)

        def work() -> None:
            if cancellation.cancelled:  # the request ended while it waited for the thread
                return
            result, error = _caught(lambda: self._prompt_and_constraint(request, thread))
            if result is None:
                self._inbox.put(PromptReady(request.request_id, None, error))
                return
            prepared, constraint = result
            if constraint is None:
                self._inbox.put(PromptReady(request.request_id, prepared))
                return
            deliver(constraint, lambda *outcome: self._constrained(request, prepared, *outcome))

        thread.submit(work)

    def _thread_for(self, characters: int) -> TaskThread:
        return self._thread_for_long if characters > LONG_TEXT_CHARACTERS else self._thread

    def _prompt_and_constraint(
        self, request: GenerationRequest, thread: TaskThread
    ) -> tuple[Prepared, Future[Constraint] | None]:
        tokenizer = self._tokenizer(request.ref)
        seconds = limit_s(request.prompt.characters)
        ready = PromptReady(request.request_id, None, _gave_up(tokenizer, seconds))
        with thread.limit(seconds, lambda: self._inbox.put(ready)):
            prepared = prepare(tokenizer, request)
        return prepared, tokenizer.constraints.begin(request.params)

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
    ) -> None:
        """Call `work` with the model's tokenizer, then `done(result, error)`, on one of the
        threads.

        The number of characters selects the thread.
        """
        thread, given_up = self._thread_for(characters), threading.Event()

        def give_up(error: MlxdError) -> None:
            given_up.set()
            done(None, error)

        def limited() -> Any:
            tokenizer, seconds = self._tokenizer(ref), limit_s(characters)
            with thread.limit(seconds, lambda: give_up(_gave_up(tokenizer, seconds))):
                return work(tokenizer)

        def task() -> None:
            result, error = _caught(limited)
            if not given_up.is_set():
                done(result, error)

        thread.submit(task)

    def forget(self, path: str) -> None:
        """Drop the tokenizer of an unloaded model."""
        with self._lock:
            self._tokenizers.pop(path, None)

    def _tokenizer(self, ref: ModelRef) -> Tokenizer:
        # One at a time, because loading replaces modules during imports and needs memory.
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


def limit_s(characters: int) -> float:
    """Return how long a tokenizer may take for so much text."""
    return TOKENIZING_LIMIT_S + TOKENIZING_LIMIT_S_PER_MB * characters / 2**20


def _gave_up(tokenizer: Tokenizer, seconds: float) -> MlxdError:
    return Internal(
        f"The tokenizer of {tokenizer.name} did not return within {seconds:.0f} s.",
        hint="Shorten or change the text. If every text fails, get the model again: "
        f"mlx models pull {tokenizer.name}",
    )


def _caught(work: Callable[[], Any]) -> tuple[Any, MlxdError | None]:
    try:
        return work(), None
    except BaseException as exc:  # includes SystemExit, because the request must get an answer
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
    # A tokenizer may have more ids than its model, and `tokenize` returns them too.
    if max(tokens, default=0) >= len(tokenizer.wrapper):
        tokenizer.check_ids("tokens", tokens)
    return {"text": tokenizer.wrapper.decode(list(tokens))}
