"""Accepts requests, schedules them once their prompts and models are ready, and cancels them."""

from __future__ import annotations

from typing import Any

from mlxd.daemon.engine.backend.shortages import as_error
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.generation import GenerationRequest
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.progress import stopped
from mlxd.daemon.engine.request import ActiveRequest
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import RequestQueue
from mlxd.daemon.engine.tokenization.worker import Preparer, PromptReady
from mlxd.daemon.stderr import error_summary, report
from mlxd.protocol.errors import MlxdError


class Intake:
    """Changes the state of requests, except for changes that result from computation."""

    def __init__(
        self,
        *,
        requests: ActiveRequests,
        models: ModelManager,
        runner: Runner,
        preparer: Preparer,
        arrivals: Arrivals,
    ) -> None:
        self._requests = requests
        self._models = models
        self._runner = runner
        self._preparer = preparer
        self._arrivals = arrivals

    def submit(self, params: dict[str, Any]) -> None:
        """Accept a request: parse it, start to tokenize its prompt and to load its models."""
        try:
            spec = GenerationRequest.from_map(params)
        except MlxdError as error:
            self._requests.refuse(params["rid"], error)
            return
        request = ActiveRequest(spec)
        self._arrivals.came(request.timing.received, alone=not self._requests.by_id)
        self._requests.add(request)
        try:
            if not self._models.ensure(spec.ref, spec.keep_alive_s):
                self._requests.emit(request, "loading", {"model": spec.ref.name})
            self._preparer.prepare(spec, request.cancellation)
        except Exception as exc:  # for example, no thread can be started: ends this request only
            self.fail(request, as_error(exc))

    def prepared(self, message: PromptReady) -> None:
        """Handle a tokenized prompt, or the error of tokenizing it."""
        request = self._requests.by_id.get(message.request_id)
        if request is None:
            return
        if message.error is not None:
            self.fail(request, message.error)
            return
        request.prepared = message.prepared
        try:
            # Load it again, because it may have been unloaded while the prompt was tokenized.
            self._models.ensure(request.ref)
        except MlxdError as error:
            self.fail(request, error)
            return
        self.enqueue_if_ready(request)

    def cancel(self, params: dict[str, Any]) -> None:
        """Cancel a request, and cache the computed part of its prompt."""
        request = self._requests.by_id.get(params["rid"])
        if request is None:
            return
        error = stopped(params.get("code", "cancelled"), request.usage())
        self._requests.counters[f"ended_{error.code}"] += 1
        if loaded := self._models.loaded.get(request.ref.key):
            self._runner.keep(loaded, request)
        self.fail(request, error)

    def enqueue_if_ready(self, request: ActiveRequest) -> None:
        """Schedule a request if its prompt is tokenized and all its models are loaded."""
        loaded = self._models.loaded
        missing = [key for key in request.ref.needs if key not in loaded]
        scheduled = request.request_id in self._runner.scheduler.entries
        if request.prepared is None or missing or scheduled:
            return
        try:
            self._runner.enqueue(loaded[request.ref.key], request)
        except MlxdError as error:
            self.fail(request, error)

    def fail(self, request: ActiveRequest, error: MlxdError) -> None:
        """End a request with an error, whatever its state."""
        self._requests.fail(request, error)
        self._runner.forget(request, self._models.loaded.get(request.ref.key))

    def queue_failed(self, queue: RequestQueue, exc: Exception) -> None:
        """End all requests of a queue whose computation failed. Other queues continue."""
        error = as_error(exc)
        if error.code == "internal":
            report("Computing failed:", error_summary(exc))
        entries = self._runner.scheduler.entries.values()
        request_ids = [entry.request_id for entry in entries if entry.queue == queue]
        self._models.loaded[queue.model].batches.pop(queue, None)
        for request_id in request_ids:
            self.fail(self._requests.by_id[request_id], error)
