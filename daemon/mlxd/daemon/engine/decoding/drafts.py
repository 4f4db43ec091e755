"""Opens and ends the drafts of requests that name a draft model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from mlxd.daemon.engine.decoding.sequences import draft_problem
from mlxd.daemon.engine.decoding.speculative import Draft
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.request import ActiveRequest, Choice


class DraftModels:
    """The draft models among the loaded ones. `find_loaded(key)` returns a loaded model or None."""

    def __init__(
        self,
        find_loaded: Callable[[str], LoadedModel | None],
        prefixes: PrefixCache,
        counters: Counter[str],
    ) -> None:
        self._find_loaded = find_loaded
        self._prefixes = prefixes
        self._counters = counters

    def open(self, loaded: LoadedModel, request: ActiveRequest) -> Draft | None:
        """Return the request's draft. If it has none, return None and add a note with the
        reason."""
        ref = request.ref.draft_ref
        if ref is None:
            return None
        draft_model = self._find_loaded(ref.key)
        problem = draft_problem(loaded, draft_model, request)
        if problem or draft_model is None or request.prepared is None:
            request.notes.append(f"the draft model {ref.name} was not used: {problem}")
            return None
        draft_model.last_used_s = time.monotonic()
        cache, done = self._prefixes.fetch(draft_model.fingerprint, request.prepared.tokens)
        last_id = min(loaded.tokenizer.model_tokens, draft_model.tokenizer.model_tokens) - 1
        return Draft(ref.name, draft_model.model, cache, done, last_id=last_id)

    def end(self, request: ActiveRequest, choice: Choice) -> None:
        """Count what was accepted, and store the draft model's cache of the sequence."""
        draft, ref = request.draft, request.ref.draft_ref
        draft_model = None if ref is None else self._find_loaded(ref.key)
        if draft is None or draft_model is None or request.prepared is None:
            return
        draft_model.last_used_s = time.monotonic()
        self._counters["draft_proposed"] += draft.proposed
        self._counters["draft_accepted"] += draft.accepted
        if not draft.worthwhile:
            request.notes.append(
                f"the draft model {draft.name} was turned off: too few of its tokens were accepted"
            )
        tokens = [*request.prepared.tokens, *choice.tokens]
        draft.rewind(draft.done - len(tokens))
        self._prefixes.store(
            draft_model.fingerprint, tokens[: draft.done], draft.cache, durable=False
        )


def tokens_since(request: ActiveRequest, choice: Choice, done: int) -> list[int]:
    """Return the tokens of the sequence after the first `done`."""
    assert request.prepared is not None
    prompt = request.prepared.tokens
    if done >= len(prompt):
        return choice.tokens[done - len(prompt) :]
    return [*prompt[done:], *choice.tokens]
