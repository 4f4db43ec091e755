"""Admits requests, schedules them once prompt and models are ready, and ends them early."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from mlxd.daemon.engine.backend.shortages import as_error
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.generation import GenerationParams
from mlxd.daemon.engine.models.manager import Residents
from mlxd.daemon.engine.progress import stopped
from mlxd.daemon.engine.request import Job, ModelRef
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import RANKS, Lane
from mlxd.daemon.engine.tokenization.worker import PreparedJob, Preparer
from mlxd.daemon.words import outline
from mlxd.protocol.errors import MlxdError


class Intake:
    """Every way in which a request changes its state outside of a computation."""

    def __init__(
        self,
        *,
        requests: ActiveRequests,
        residents: Residents,
        runner: Runner,
        preparer: Preparer,
        arrivals: Arrivals,
    ) -> None:
        self._requests = requests
        self._residents = residents
        self._runner = runner
        self._preparer = preparer
        self._arrivals = arrivals

    def submit(self, params: dict[str, Any]) -> None:
        """Take in a request, and have its prompt prepared and its models loaded."""
        given = params["params"]
        seed = given.get("seed")
        job = Job(
            rid=params["rid"],
            method=params["method"],
            params=given,
            ref=ModelRef.from_map(params["model"]),
            conn=params.get("conn", 0),
            rank=RANKS[params.get("priority") or "interactive"],
            seed=secrets.randbits(53) if seed is None else seed,
            generation=GenerationParams.from_map(given),
        )
        self._arrivals.came(job.timing.received, alone=not self._requests.jobs)
        self._requests.add(job)
        try:
            if not self._residents.want(job.ref, given.get("keep_alive_s")):
                self._requests.emit(job, "loading", {"model": job.ref.name})
            self._preparer.prepare(job)
        except Exception as exc:  # no thread for the prompt, say: this request's end, not ours
            self.fail(job, as_error(exc))

    def prepared(self, message: PreparedJob) -> None:
        """Take in a tokenized prompt, or the reason why there is none."""
        job = self._requests.jobs.get(message.rid)
        if job is None:
            return
        if message.error is not None:
            self.fail(job, message.error)
            return
        job.prepared = message.prepared
        try:
            # Again, for a model that went away while the prompt was being prepared.
            self._residents.want(job.ref)
        except MlxdError as error:
            self.fail(job, error)
            return
        self.enqueue_if_ready(job)

    def cancel(self, params: dict[str, Any]) -> None:
        """Stop a request, and keep what was computed of its prompt."""
        job = self._requests.jobs.get(params["rid"])
        if job is None:
            return
        error = stopped(params.get("code", "cancelled"), job.usage())
        self._requests.counters[f"ended_{error.code}"] += 1
        if host := self._residents.hosts.get(job.ref.key):
            self._runner.prompts.keep_partial(host, job)
        self.fail(job, error)

    def enqueue_if_ready(self, job: Job) -> None:
        """Hand a request to the scheduler once its prompt and all its models are there."""
        hosts = self._residents.hosts
        missing = [key for key in job.ref.needs if key not in hosts]
        if job.prepared is None or missing or job.rid in self._runner.scheduler.entries:
            return
        try:
            self._runner.enqueue(hosts[job.ref.key], job)
        except MlxdError as error:
            self.fail(job, error)

    def fail(self, job: Job, error: MlxdError) -> None:
        """End a request with an error, in whatever state it is."""
        self._requests.fail(job, error)
        self._runner.forget(job, self._residents.hosts.get(job.ref.key))

    def queue_failed(self, lane: Lane, exc: Exception) -> None:
        """End all requests of a queue whose computation failed; the others go on."""
        error = as_error(exc)
        if error.code == "internal":
            print("Computing failed:", outline(exc), file=sys.stderr, flush=True)
        entries = self._runner.scheduler.entries.values()
        rids = [entry.job for entry in entries if entry.lane == lane]
        self._residents.hosts[lane.model].batches.pop(lane, None)
        for rid in rids:
            self.fail(self._requests.jobs[rid], error)
