"""Carries out what the scheduler decided: prefill chunks, decoding steps, parking, ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.job import Choice, Job
from mlxd.daemon.engine.mlx_batch import Cache, Emitted, Parked, Prefill
from mlxd.daemon.engine.mlx_models import Host
from mlxd.daemon.engine.mlx_prefix import PrefixCache
from mlxd.daemon.engine.mlx_rows import is_end, logprob_entry, new_choice, new_row
from mlxd.daemon.engine.scheduler import Entry, Lane, Scheduler, Turn
from mlxd.protocol.errors import OutOfMemory

CLEAR_CACHE_STEPS = 512  # as in mlx-lm: gives back buffers that shapes of the past needed

Emit = Callable[[int, str, dict[str, Any]], None]
"""(request id, event type, payload)"""


class Runner:
    """Owns the rows, the unfinished prompts and the parked sequences of all jobs.

    `ended(job, result)` is called once for every job that comes to its natural end.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        prefixes: PrefixCache,
        counters: Counter[str],
        emit: Emit,
        ended: Callable[[Job, dict[str, Any]], None],
    ) -> None:
        self.scheduler = scheduler
        self.prefixes = prefixes
        self.counters = counters
        self.emit = emit
        self.ended = ended
        self.parked: dict[int, list[Parked]] = {}
        self.rows: dict[int, tuple[Job, Choice]] = {}
        self._prefills: dict[int, Prefill] = {}
        self._next_uid = 0

    def enqueue(self, host: Host, job: Job) -> None:
        """Hand a job with its prompt to the scheduler.

        Raises:
            OutOfMemory: its KV cache could never fit beside the weights.
        """
        assert job.prepared is not None
        kv_bytes = self._limits(host, job)
        job.notes += job.prepared.notes
        job.prompt_tokens = len(job.prepared.tokens)
        job.batched = host.mergeable
        if not host.mergeable:
            job.notes.append("this model's cache cannot be merged: it was served alone")
        self.scheduler.add(
            Entry(
                job=job.rid,
                lane=Lane(job.rank, host.ref.key),
                conn=job.conn,
                rows=job.params["n"],
                prompt_left=len(job.prepared.tokens) - 1,
                kv_bytes=kv_bytes,
            )
        )
        if len(job.prepared.tokens) == 1:
            self.scheduler.inherit(job.rid, 0)

    def run(self, turn: Turn, lane: Lane, host: Host, jobs: dict[int, Job]) -> None:
        """Do one turn of one lane."""
        for rid in turn.park:
            self._park(host, jobs[rid])
        for rid in turn.admit:
            self._admit(host, lane, jobs[rid])
        if turn.decode:
            for batch in list(host.batches.get(lane, ())):
                if len(batch):
                    self._take_tokens(host, batch.step())
            host.tidy()
        if turn.prefill is not None and turn.prefill in jobs:
            self._prefill(host, lane, jobs[turn.prefill])

    def forget(self, job: Job, host: Host | None) -> None:
        """Drop everything that belongs to a job that ended, in whatever state."""
        for uid in self._uids_of(job):
            batch = host.batch_of(uid) if host is not None else None
            if batch is not None:
                batch.remove([uid])
            del self.rows[uid]
        self._prefills.pop(job.rid, None)
        self.parked.pop(job.rid, None)
        self.scheduler.remove(job.rid)
        if host is not None:
            host.last_used_s = time.monotonic()
            host.tidy()

    def keep_partial(self, host: Host, job: Job) -> None:
        """Keep what was computed of a prompt, for the request that takes this one's place."""
        prefill = self._prefills.get(job.rid)
        if prefill is not None and prefill.done > 0:
            done = prefill.tokens[: prefill.done]
            self.prefixes.store(host.fingerprint, done, prefill.cache, durable=False)

    # ---- prompts

    def _limits(self, host: Host, job: Job) -> int:
        """Set `max_tokens` and return the KV bytes that the job may come to hold."""
        assert job.prepared is not None
        prompt_tokens = len(job.prepared.tokens)
        context = host.tokenizer.context_tokens
        job.max_tokens = job.params["max_tokens"]
        if context is not None and prompt_tokens + job.max_tokens > context:
            job.max_tokens = context - prompt_tokens
            job.notes.append(f"max_tokens lowered to {job.max_tokens} by the context of {context}")
        tokens = (prompt_tokens + job.max_tokens) * job.params["n"]
        need = int(tokens * host.kv_bytes_per_token)
        free = self.scheduler.kv_budget_bytes
        if need > free:
            raise OutOfMemory(
                f"The request may need {need / 1e9:.2f} GB for its KV cache and "
                f"{free / 1e9:.2f} GB are free beside the weights.",
                hint="Lower max_tokens or n, shorten the prompt, or unload other models.",
                data={"need_bytes": need, "free_bytes": int(free)},
            )
        return need

    def _prefill(self, host: Host, lane: Lane, job: Job) -> None:
        prefill = self._prefills.get(job.rid) or self._begin_prefill(host, job)
        decoding = self.scheduler.decoding_in(lane) > 0
        limit = min(host.pacer.chunk_tokens(decoding=decoding), self._to_next_cut(host, job))
        started = time.monotonic()
        count = prefill.run(limit)
        host.pacer.observe(count, time.monotonic() - started)
        if count:
            self.counters["prompt_tokens_computed"] += count
            self.scheduler.prefilled(job.rid, count)
            self.emit(job.rid, "prefill", {"done": prefill.done + 1, "total": job.prompt_tokens})
            self._snapshot_at_cut(host, job)
        if prefill.left <= 0 and job.method == "prefill":
            self._end_prefill(host, job)

    def _begin_prefill(self, host: Host, job: Job) -> Prefill:
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

    def _end_prefill(self, host: Host, job: Job) -> None:
        prefill = self._prefills.pop(job.rid)
        done = prefill.tokens[: prefill.done]
        self.prefixes.store(host.fingerprint, done, prefill.cache, durable=True)
        job.timing.decode_started = time.monotonic()
        self.ended(job, {key: job.result()[key] for key in ("usage", "timing", "applied")})

    # ---- rows

    def _admit(self, host: Host, lane: Lane, job: Job) -> None:
        """Start the job's rows, or let parked ones go on."""
        if parked := self.parked.pop(job.rid, None):
            for one in parked:
                host.batch_for(lane).resume(one)
            return
        prefill = self._prefills.get(job.rid) or self._begin_prefill(host, job)
        if job.method == "prefill":
            self._end_prefill(host, job)
            return
        self._prefills.pop(job.rid)
        job.timing.decode_started = time.monotonic()
        rows = []
        for index in range(job.params["n"]):
            choice = new_choice(host, job, index)
            job.choices.append(choice)
            self._next_uid += 1
            self.rows[self._next_uid] = (job, choice)
            rows.append(new_row(host, job, choice, self._next_uid))
        last = prefill.tokens[-1]
        if host.mergeable:
            host.batch_for(lane).start(rows, [prefill.cache] * len(rows), [last] * len(rows))
            return
        for row, cache in zip(rows, self._separate(prefill, len(rows), host), strict=True):
            host.batch_for(lane).start([row], [cache], [last])

    @staticmethod
    def _separate(prefill: Prefill, count: int, host: Host) -> list[Cache]:
        """Return one cache per row where they cannot be merged: the others are computed anew."""
        caches = [prefill.cache]
        for _ in range(count - 1):
            again = Prefill(host.model, prefill.tokens)
            while again.left:
                again.run(again.left)
            caches.append(again.cache)
        return caches

    def _park(self, host: Host, job: Job) -> None:
        """Take the job's rows out of the batch, with their KV and their next token."""
        parked = []
        for uid in self._uids_of(job):
            batch = host.batch_of(uid)
            assert batch is not None
            parked.append(batch.park(uid))
        self.parked[job.rid] = parked
        self.counters["parked"] += 1
        host.tidy()

    def _uids_of(self, job: Job) -> list[int]:
        return [uid for uid, (owner, _) in self.rows.items() if owner is job]

    # ---- tokens

    def _take_tokens(self, host: Host, emitted: list[Emitted]) -> None:
        now = time.monotonic()
        self.counters["decode_steps"] += 1
        if self.counters["decode_steps"] % CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        for one in emitted:
            job, choice = self.rows[one.uid]
            if not job.timing.first_token:
                job.timing.first_token = now
            self._take_token(host, job, choice, one)
        self.counters["completion_tokens"] += len(emitted)

    def _take_token(self, host: Host, job: Job, choice: Choice, one: Emitted) -> None:
        ends = is_end(host, job, one.token)
        events = choice.accept(one.token, ends=ends)
        if one.logprob is not None:
            choice.logprobs.append(logprob_entry(host, one))
            if events:
                events[-1][1]["logprobs"] = choice.new_logprobs()
        self.scheduler.decoded(job.rid, 1)
        reason = None
        if ends or choice.splitter.stopped:
            reason = "stop"
        elif len(choice.tokens) >= job.max_tokens:
            reason = "length"
        if reason is not None:
            events += choice.finish(reason)
        for kind, payload in events:
            self.emit(job.rid, kind, payload)
        if reason is not None:
            self._choice_ended(host, job, choice, one.uid)

    def _choice_ended(self, host: Host, job: Job, choice: Choice, uid: int) -> None:
        batch = host.batch_of(uid)
        assert batch is not None
        assert job.prepared is not None
        if choice.index == 0:
            tokens = [*job.prepared.tokens, *choice.tokens]
            self.prefixes.store(host.fingerprint, tokens, batch.cache_of(uid), durable=True)
        batch.remove([uid])
        del self.rows[uid]
        if not all(other.finish_reason for other in job.choices):
            self.scheduler.row_left(job.rid)
            return
        cut = any(other.finish_reason == "length" for other in job.choices)
        if job.prepared.constraint is not None and cut:
            job.notes.append("cut by max_tokens: the text may not satisfy the constraint yet")
        self.ended(job, job.result())
