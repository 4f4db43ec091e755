"""Loads and unloads models for requests and for the calls `load` and `unload`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlxd.daemon.engine.backend.shortages import not_device_failure
from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.link import Link
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.models.reports import load_result
from mlxd.daemon.engine.request import ActiveRequest
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.tokenization.worker import TokenizerReady
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Request


class Loads:
    """Advances loads, and reports their end to the requests and calls that wait for the model."""

    def __init__(
        self,
        *,
        link: Link,
        requests: ActiveRequests,
        models: ModelManager,
        room: MemoryRoom,
        intake: Intake,
    ) -> None:
        self._link = link
        self._requests = requests
        self._models = models
        self._room = room
        self._intake = intake
        self._calls: list[tuple[Any, ModelRef, bool]] = []

    def load(self, call: Request) -> None:
        """Load a model and answer once it is loaded."""
        params = call.params
        ref = ModelRef.from_map(params["model"])
        was_loaded = ref.key in self._models.loaded
        self._models.ensure(ref, params.get("keep_alive_s"), params.get("pin"))
        self._calls.append((call.id, ref, was_loaded))
        self._answer_calls()

    def unload(self, call: Request) -> None:
        """Unload models at once, or as soon as the requests that use them have ended."""
        models, requests = self._models, self._requests
        found = models.named(call.params)
        models.unload_when_loaded(call.params)
        # Dependents first, because they share the weights, which would not be freed otherwise.
        found = [*models.dependents_of(found), *found]
        pending = sum(requests.count_using(key) for key in found)
        names = sorted({models.loaded[key].ref.name for key in found})
        for key in found:
            if requests.count_using(key):
                models.loaded[key].keep_alive_s = 0.0
                models.loaded[key].pinned = False
            else:
                models.unload(key)
        answer = {"unloaded": bool(found), "pending_requests": pending, "models": names}
        self._link.answer(call.id, answer)

    def tokenizer_ready(self, message: TokenizerReady) -> None:
        """Handle the tokenizer of a model that is being loaded."""
        self._bring_forward(message.key, lambda: self._models.tokenizer_ready(message))

    @property
    def can_advance(self) -> bool:
        """Return whether there are weights to read, and memory for them."""
        return self._models.next_key is not None and not self._models.blocked

    def advance(self) -> None:
        """Read the next slice of weights, if a load is due."""
        if (key := self._models.next_key) is not None:
            self._bring_forward(key, self._models.advance)
            self._tell_progress(key)

    def _tell_progress(self, key: str) -> None:
        """Tell the requests that wait for a model how much of its weights is read."""
        loading = self._models.loading.get(key)
        if loading is None or loading.weights is None or not loading.weights.total_bytes:
            return
        done, total = loading.weights.done_bytes, loading.weights.total_bytes
        for request in self._requests.using(key):
            about = {"model": request.ref.name, "done_bytes": done, "total_bytes": total}
            self._requests.emit(request, "loading", about)

    def _bring_forward(self, key: str, work: Callable[[], LoadedModel | None]) -> None:
        try:
            loaded = work()
        except MlxdError as error:
            not_device_failure(error)
            self._failed(key, error)
            return
        if loaded is not None:
            self._complete(loaded)

    def _failed(self, key: str, error: MlxdError) -> None:
        self._models.abandon(key, error)
        for call_id, *_ in [call for call in self._calls if key in call[1].needs]:
            self._link.refuse(call_id, error)
        self._calls = [call for call in self._calls if key not in call[1].needs]
        for request in self._requests.using(key):
            self._request_lacks(request, key, error)

    def _request_lacks(self, request: ActiveRequest, key: str, error: MlxdError) -> None:
        """End a request whose model cannot be loaded.

        If its draft model cannot be loaded, it continues.
        """
        draft = request.ref.draft_ref
        if draft is None or key != draft.key or key == request.ref.key:
            self._intake.fail(request, error)
            return
        request.notes.append(f"the draft model {draft.name} was not used: {error.message}")
        request.ref = replace(request.ref, draft=None, draft_name=None)
        self._intake.enqueue_if_ready(request)

    def _complete(self, loaded: LoadedModel) -> None:
        self._room.model_loaded(loaded, self._models.weights_bytes())
        self._answer_calls()
        for request in self._requests.using(loaded.ref.key):
            request.timing.load_s = time.monotonic() - request.timing.received
            self._intake.enqueue_if_ready(request)

    def _answer_calls(self) -> None:
        """Answer the calls of `load` whose models are all loaded."""
        loaded = self._models.loaded
        for call in [one for one in self._calls if loaded.keys() >= set(one[1].needs)]:
            self._calls.remove(call)
            self._link.answer(call[0], load_result(loaded[call[1].key], was_loaded=call[2]))
