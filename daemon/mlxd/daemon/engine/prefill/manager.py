"""The prompts of all jobs until they decode: what is computed next, and what is remembered."""

from __future__ import annotations

import time

from mlxd.daemon.engine.backend.base import Backend
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.models.loader import Host
from mlxd.daemon.engine.prefill.chunks import Prefill, run_together
from mlxd.daemon.engine.request import Job
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.scheduler import Lane, Scheduler

TOGETHER_MAX_TOKENS = 512
"""Prompts up to this length share a pass; a longer one fills the machine by itself."""
TOGETHER_CHUNKS = 2
"""What they may take where no stream waits: in turn, the last of them would wait longer."""


class Prompts:
    """Owns the unfinished prompts, and ends the requests that want no answer."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        prefixes: PrefixCache,
        backend: Backend,
        requests: ActiveRequests,
    ) -> None:
        self.scheduler = scheduler
        self.prefixes = prefixes
        self.counters = requests.counters
        self.requests = requests
        self.backend = backend
        self._prefills: dict[int, Prefill] = {}

    def take(self, host: Host, job: Job) -> Prefill:
        """Give a complete prompt away: its job decodes from now on."""
        prefill = self.of(host, job)
        del self._prefills[job.rid]
        return prefill

    def forget(self, job: Job) -> None:
        """Drop the prompt of a job that ended."""
        self._prefills.pop(job.rid, None)

    def keep_partial(self, host: Host, job: Job) -> None:
        """Keep what was computed of a prompt, for the request that takes this one's place."""
        prefill = self._prefills.get(job.rid)
        if prefill is not None and prefill.done > 0:
            done = prefill.tokens[: prefill.done]
            self.prefixes.store(host.fingerprint, done, prefill.cache, durable=False)

    def run(self, host: Host, lane: Lane, jobs: list[Job]) -> None:
        """Compute prompts until a chunk's time is used up: the first one's chunk, or several."""
        waits = self.scheduler.decoding_in(lane) > 0
        used = 0
        while jobs:
            # Another prompt is not begun, which may read a file, where the time is used up.
            first = self._prefills.get(jobs[0].rid) if used else self.of(host, jobs[0])
            behind = 0 if first is None else first.done
            left = host.pacer.chunk_tokens(decoding=waits, behind=behind) - used
            if used and left <= 0:
                return
            parts = self._next_parts(host, jobs, max(left, 1), 1 if waits else TOGETHER_CHUNKS)
            jobs = jobs[len(parts) :]
            # Whoever is complete waits for the others now, as a running stream would.
            waits = self._compute(host, parts) or waits
            used += sum(count for _, count in parts)

    def _next_parts(
        self, host: Host, jobs: list[Job], tokens: int, chunks: int
    ) -> list[tuple[Job, int]]:
        """Return which prompts come next, and how much of each: `tokens` of one, or short ones.

        Those share a pass of up to so many chunks, padding included.
        """
        first = self.of(host, jobs[0])
        longest = min(tokens, first.left, self._to_next_cut(host, jobs[0]))
        parts = [(jobs[0], longest)]
        if longest < first.left or not _shares(first):
            return parts
        for job in jobs[1:]:
            prefill = self.of(host, job)
            longest = max(longest, prefill.left)
            if (len(parts) + 1) * longest > chunks * tokens or not _shares(prefill):
                break
            parts.append((job, prefill.left))
        return parts

    def _compute(self, host: Host, parts: list[tuple[Job, int]]) -> bool:
        """Compute so many tokens of each prompt. Returns whether one is complete."""
        total = sum(count for _, count in parts)
        for batches in host.batches.values():
            for batch in batches:
                batch.settle()  # or the time of its step would count as the prompts'
        self.backend.before_pass(total, host.widest)
        behind = self.of(host, parts[0][0]).done
        started = time.monotonic()
        if len(parts) == 1:
            self.of(host, parts[0][0]).run(total)
        elif total:
            run_together(host.model, [(self.of(host, job), n) for job, n in parts])
        host.pacer.observe(total, time.monotonic() - started, behind)
        complete = [self._computed(host, job, count) for job, count in parts]
        return any(complete)

    def _computed(self, host: Host, job: Job, count: int) -> bool:
        prefill = self.of(host, job)
        if count:
            self.counters["prompt_tokens_computed"] += count
            self.scheduler.prefilled(job.rid, count)
            self.requests.emit(
                job, "prefill", {"done": prefill.done + 1, "total": job.prompt_tokens}
            )
            self.requests.publish(job)
            self._snapshot_at_cut(host, job)
        complete = prefill.left <= 0
        if complete and job.method == "prefill":
            self.end(host, job)
        return complete

    def of(self, host: Host, job: Job) -> Prefill:
        """Return a job's prompt as far as it is computed, beginning with what is remembered."""
        return self._prefills.get(job.rid) or self._begin(host, job)

    def _begin(self, host: Host, job: Job) -> Prefill:
        assert job.prepared is not None
        tokens = job.prepared.tokens
        job.timing.prefill_started = time.monotonic()
        cache, done = self.prefixes.fetch(host.fingerprint, tokens, host.model)
        job.cached_tokens = done
        self.counters["prompt_tokens"] += len(tokens)
        self.counters["prompt_tokens_cached"] += done
        prefill = Prefill(host.model, tokens, cache, done)
        self._prefills[job.rid] = prefill
        if done:
            self.scheduler.inherit(job.rid, done)
        return prefill

    def _to_next_cut(self, host: Host, job: Job) -> int:
        """Return the tokens until a snapshot is due; caches that can be trimmed need none."""
        assert job.prepared is not None
        done = self._prefills[job.rid].done
        if not host.trimmable:
            for cut in job.prepared.cuts:
                if cut > done:
                    return cut - done
        return len(job.prepared.tokens)

    def _snapshot_at_cut(self, host: Host, job: Job) -> None:
        assert job.prepared is not None
        prefill = self._prefills[job.rid]
        at_end = prefill.left == 0
        if host.trimmable or not (prefill.done in job.prepared.cuts or at_end):
            return
        tokens = job.prepared.tokens[: prefill.done]
        self.prefixes.store(host.fingerprint, tokens, prefill.cache, durable=not at_end)

    def end(self, host: Host, job: Job) -> None:
        """End a request that only wants its prompt to be computed and remembered."""
        prefill = self._prefills.pop(job.rid)
        done = prefill.tokens[: prefill.done]
        self.prefixes.store(host.fingerprint, done, prefill.cache, durable=True)
        job.timing.decode_started = time.monotonic()
        result = {key: job.result()[key] for key in ("usage", "timing", "applied")}
        self.requests.end(job, result)
        self.scheduler.remove(job.rid)
        host.last_used_s = time.monotonic()
        host.tidy()


def _shares(prompt: Prefill) -> bool:
    """Whether a prompt may share a pass with others."""
    return prompt.joins and len(prompt.tokens) <= TOGETHER_MAX_TOKENS
