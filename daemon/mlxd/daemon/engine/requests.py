"""The engine's requests from arrival to end, and their events on the way to the front."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.engine.request import Job
from mlxd.protocol.errors import MlxdError


class ActiveRequests:
    """Requests that have not ended. Their events are kept until `take_events`."""

    def __init__(self, progress: Progress) -> None:
        self.jobs: dict[int, Job] = {}
        self.counters: Counter[str] = Counter()
        self._progress = progress
        self._events: list[list[Any]] = []

    def __len__(self) -> int:
        return len(self.jobs)

    def add(self, job: Job) -> None:
        """Take in a request that has just arrived."""
        self.jobs[job.rid] = job
        self.counters["requests"] += 1
        self.publish(job)

    def using(self, key: str) -> list[Job]:
        """Return the requests that use a model, for its weights or its draft tokens."""
        return [job for job in self.jobs.values() if key in job.ref.needs]

    def count_using(self, key: str) -> int:
        """Return how many requests use a model."""
        return sum(key in job.ref.needs for job in self.jobs.values())

    def publish(self, job: Job) -> None:
        """Let the link's thread know the usage of a request."""
        self._progress.publish(job.rid, job.usage())

    def emit(self, job: Job, kind: str, payload: dict[str, Any]) -> None:
        """Send an event of a request to the front, with the others of this pass."""
        self._events.append([job.rid, kind, payload])

    def end(self, job: Job, result: dict[str, Any]) -> None:
        """End a request with its result."""
        self.counters["ended"] += 1
        self._close(job, "end", result)

    def fail(self, job: Job, error: MlxdError) -> None:
        """End a request with an error."""
        self.counters["failed"] += 1
        self._close(job, "error", error.to_map())

    def _close(self, job: Job, kind: str, payload: dict[str, Any]) -> None:
        self.emit(job, kind, payload)
        job.gone = True
        self.jobs.pop(job.rid, None)
        self._progress.remove(job.rid)

    @property
    def has_events(self) -> bool:
        return bool(self._events)

    def take_events(self) -> list[list[Any]]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events
