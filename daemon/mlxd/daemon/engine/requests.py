"""The engine's active requests, and their events that are not sent to the front yet."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.engine.request import ActiveRequest
from mlxd.protocol.errors import MlxdError


class ActiveRequests:
    """Requests that have not ended, by id. `take_events` returns the events to send."""

    def __init__(self, progress: Progress) -> None:
        self.by_id: dict[int, ActiveRequest] = {}
        self.counters: Counter[str] = Counter()
        self._progress = progress
        self._events: list[list[Any]] = []

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, request: ActiveRequest) -> None:
        """Add a new request."""
        self.by_id[request.request_id] = request
        self.counters["requests"] += 1
        self.publish(request)

    def using(self, key: str) -> list[ActiveRequest]:
        """Return the requests that use a model, also as base or draft model."""
        return [request for request in self.by_id.values() if key in request.ref.needs]

    def count_using(self, key: str) -> int:
        """Return how many requests use a model."""
        return sum(key in request.ref.needs for request in self.by_id.values())

    def publish(self, request: ActiveRequest) -> None:
        """Publish the usage of a request to the link's thread."""
        self._progress.publish(request.request_id, request.usage())

    def emit(self, request: ActiveRequest, kind: str, payload: dict[str, Any]) -> None:
        """Queue an event of a request. The loop sends all events of an iteration together."""
        self._events.append([request.request_id, kind, payload])

    def end(self, request: ActiveRequest, result: dict[str, Any]) -> None:
        """End a request with its result."""
        self.counters["ended"] += 1
        self._close(request, "end", result)

    def fail(self, request: ActiveRequest, error: MlxdError) -> None:
        """End a request with an error."""
        self.counters["failed"] += 1
        self._close(request, "error", error.to_map())

    def refuse(self, request_id: int, error: MlxdError) -> None:
        """Answer a request that cannot be parsed with an error."""
        self.counters["failed"] += 1
        self._events.append([request_id, "error", error.to_map()])

    def _close(self, request: ActiveRequest, kind: str, payload: dict[str, Any]) -> None:
        self.emit(request, kind, payload)
        request.cancellation.cancel()
        self.by_id.pop(request.request_id, None)
        self._progress.remove(request.request_id)

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def take_events(self) -> list[list[Any]]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events
