"""Loads and unloads models for requests and for the calls `load` and `unload`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.link import Link
from mlxd.daemon.engine.models.loader import Host
from mlxd.daemon.engine.models.manager import Residents, load_result
from mlxd.daemon.engine.request import Job, ModelRef
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.tokenization.worker import TokenizerReady
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Request


class Loads:
    """Brings each load forward and reports its end to whoever waits for the model."""

    def __init__(
        self,
        *,
        link: Link,
        requests: ActiveRequests,
        residents: Residents,
        room: MemoryRoom,
        intake: Intake,
    ) -> None:
        self._link = link
        self._requests = requests
        self._residents = residents
        self._room = room
        self._intake = intake
        self._calls: list[tuple[Any, ModelRef, bool]] = []

    def load(self, request: Request) -> None:
        """Load a model; the answer comes once it is there."""
        params = request.params
        ref = ModelRef.from_map(params["model"])
        was_loaded = ref.key in self._residents.hosts
        self._residents.want(ref, params.get("keep_alive_s"), params.get("pin"))
        self._calls.append((request.id, ref, was_loaded))
        self._answer_calls()

    def unload(self, request: Request) -> None:
        """Unload models at once, or as soon as the requests that use them have ended."""
        residents, requests = self._residents, self._requests
        found = residents.named(request.params)
        residents.unload_when_loaded(request.params)
        # What shares their weights goes first: only then is the memory free.
        found = [*residents.resting_on(found), *found]
        pending = sum(requests.count_using(key) for key in found)
        names = sorted({residents.hosts[key].ref.name for key in found})
        for key in found:
            if requests.count_using(key):
                residents.hosts[key].keep_alive_s = 0.0
                residents.hosts[key].pinned = False
            else:
                residents.let_go(key)
        answer = {"unloaded": bool(found), "pending_requests": pending, "models": names}
        self._link.answer(request.id, answer)

    def tokenizer_ready(self, message: TokenizerReady) -> None:
        """Take in the tokenizer of a model that is being loaded."""
        self._bring_forward(message.key, lambda: self._residents.tokenizer_ready(message))

    @property
    def can_advance(self) -> bool:
        """Whether there are weights to read, and room for them."""
        return self._residents.next_key is not None and not self._residents.blocked

    def advance(self) -> None:
        """Read a slice of the weights that are read next, if there are any."""
        if (key := self._residents.next_key) is not None:
            self._bring_forward(key, self._residents.advance)

    def _bring_forward(self, key: str, work: Callable[[], Host | None]) -> None:
        try:
            host = work()
        except MlxdError as error:
            self._failed(key, error)
            return
        if host is not None:
            self._complete(host)

    def _failed(self, key: str, error: MlxdError) -> None:
        self._residents.abandon(key, error)
        for request_id, *_ in [call for call in self._calls if key in call[1].needs]:
            self._link.refuse(request_id, error)
        self._calls = [call for call in self._calls if key not in call[1].needs]
        for job in self._requests.using(key):
            self._request_lacks(job, key, error)

    def _request_lacks(self, job: Job, key: str, error: MlxdError) -> None:
        """End a request whose model cannot be loaded; without a draft model it goes on."""
        draft = job.ref.draft_ref
        if draft is None or key != draft.key or key == job.ref.key:
            self._intake.fail(job, error)
            return
        job.notes.append(f"the draft model {draft.name} was not used: {error.message}")
        job.ref = replace(job.ref, draft=None, draft_name=None)
        self._intake.enqueue_if_ready(job)

    def _complete(self, host: Host) -> None:
        self._room.fit(self._residents.weights_bytes())
        self._answer_calls()
        for job in self._requests.using(host.ref.key):
            job.timing.load_s = time.monotonic() - job.timing.received
            self._intake.enqueue_if_ready(job)

    def _answer_calls(self) -> None:
        """Answer the calls of `load` whose models are all there."""
        hosts = self._residents.hosts
        for call in [one for one in self._calls if hosts.keys() >= set(one[1].needs)]:
            self._calls.remove(call)
            self._link.answer(call[0], load_result(hosts[call[1].key], was_loaded=call[2]))
