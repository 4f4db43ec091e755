"""Carries out what the scheduler decided: prefill chunks, decoding steps, parking, ends."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.job import Choice, Job
from mlxd.daemon.engine.mlx_batch import (
    DecodeBatch,
    Emitted,
    Parked,
    Row,
    Start,
)
from mlxd.daemon.engine.mlx_blas import blas_threads
from mlxd.daemon.engine.mlx_draft import LAG_MAX_TOKENS, Draft
from mlxd.daemon.engine.mlx_kv import Cache
from mlxd.daemon.engine.mlx_models import Host
from mlxd.daemon.engine.mlx_prefill import Prefill, run_together
from mlxd.daemon.engine.mlx_prefix import PrefixCache, copied
from mlxd.daemon.engine.mlx_rows import draft_problem, is_end, logprob_entry, new_choice, new_row
from mlxd.daemon.engine.scheduler import Entry, Lane, Scheduler, Turn
from mlxd.daemon.words import outline
from mlxd.protocol.errors import OutOfMemory

TOGETHER_MAX_TOKENS = 512
"""Prompts up to this length share a pass; a longer one fills the machine by itself."""
TOGETHER_CHUNKS = 2
"""What they may take where no stream waits: in turn, the last of them would wait longer."""
CLEAR_CACHE_STEPS = 512  # as in mlx-lm: gives back buffers that shapes of the past needed

Emit = Callable[[int, str, dict[str, Any]], None]
"""(request id, event type, payload)"""


class Runner:
    """Owns the rows, the unfinished prompts and the parked sequences of all jobs.

    `ended(job, result)` is called once for every job that comes to its natural end; `host_of(key)`
    finds resident models.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        prefixes: PrefixCache,
        counters: Counter[str],
        host_of: Callable[[str], Host | None],
        emit: Emit,
        ended: Callable[[Job, dict[str, Any]], None],
    ) -> None:
        self.scheduler = scheduler
        self.prefixes = prefixes
        self.counters = counters
        self.host_of = host_of
        self.emit = emit
        self.ended = ended
        self.parked: dict[int, list[Parked]] = {}
        self.rows: dict[int, tuple[Job, Choice]] = {}
        self._prefills: dict[int, Prefill] = {}
        self._aside: list[tuple[str, list[int], Cache]] = []
        self._next_uid = 0
        self._threads = blas_threads()

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
        if first := self._admit(host, lane, [jobs[rid] for rid in turn.admit]):
            # They are on their way before anything else is computed.
            self._take_tokens(host, first)
            host.tidy()
            return
        if turn.decode:
            for batch in list(host.batches.get(lane, ())):
                if len(batch):
                    self._decode(host, batch, alone=self.scheduler.decoding_in(lane) == 1)
            host.tidy()
        self._prefill_some(host, lane, [jobs[rid] for rid in turn.prefill if rid in jobs])

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
        small = None if job.ref.draft_ref is None else self.host_of(job.ref.draft_ref.key)
        per_token = host.kv_bytes_per_token + (0 if small is None else small.kv_bytes_per_token)
        need = int(tokens * per_token)
        free = self.scheduler.kv_budget_bytes
        if need > free:
            raise OutOfMemory(
                f"The request may need {need / 1e9:.2f} GB for its KV cache and "
                f"{free / 1e9:.2f} GB are free beside the weights.",
                hint="Lower max_tokens or n, shorten the prompt, or unload other models.",
                data={"need_bytes": need, "free_bytes": int(free)},
            )
        return need

    def _prefill_some(self, host: Host, lane: Lane, jobs: list[Job]) -> None:
        """Compute prompts until a chunk's time is used up: the first one's chunk, or several."""
        waits = self.scheduler.decoding_in(lane) > 0
        used = 0
        while jobs:
            left = host.pacer.chunk_tokens(decoding=waits) - used
            if used and left <= 0:
                return
            parts = self._next_parts(host, jobs, max(left, 1), 1 if waits else TOGETHER_CHUNKS)
            jobs = jobs[len(parts) :]
            # Whoever is complete waits for the others now, as a running stream would.
            waits = self._prefill(host, parts) or waits
            used += sum(count for _, count in parts)

    def _next_parts(
        self, host: Host, jobs: list[Job], tokens: int, chunks: int
    ) -> list[tuple[Job, int]]:
        """Return which prompts come next, and how much of each: `tokens` of one, or short ones.

        Those share a pass of up to so many chunks, padding included.
        """
        first = self._prefill_of(host, jobs[0])
        longest = min(tokens, first.left, self._to_next_cut(host, jobs[0]))
        parts = [(jobs[0], longest)]
        if longest < first.left or not first.joins:
            return parts
        for job in jobs[1:]:
            prefill = self._prefill_of(host, job)
            longest = max(longest, prefill.left)
            padded = (len(parts) + 1) * longest
            most = max(len(one.tokens) for one in (first, prefill))
            if padded > chunks * tokens or most > TOGETHER_MAX_TOKENS or not prefill.joins:
                break
            parts.append((job, prefill.left))
        return parts

    def _prefill(self, host: Host, parts: list[tuple[Job, int]]) -> bool:
        """Compute so many tokens of each prompt. Returns whether one is complete."""
        total = sum(count for _, count in parts)
        for batches in host.batches.values():
            for batch in batches:
                batch.settle()  # or the time of its step would count as the prompts'
        self._threads.fit(total * host.widest)
        started = time.monotonic()
        if len(parts) == 1:
            self._prefill_of(host, parts[0][0]).run(total)
        elif total:
            run_together(host.model, [(self._prefill_of(host, job), n) for job, n in parts])
        host.pacer.observe(total, time.monotonic() - started)
        complete = [self._prefilled(host, job, count) for job, count in parts]
        return any(complete)

    def _prefilled(self, host: Host, job: Job, count: int) -> bool:
        prefill = self._prefill_of(host, job)
        if count:
            self.counters["prompt_tokens_computed"] += count
            self.scheduler.prefilled(job.rid, count)
            self.emit(job.rid, "prefill", {"done": prefill.done + 1, "total": job.prompt_tokens})
            self._snapshot_at_cut(host, job)
        complete = prefill.left <= 0
        if complete and job.method == "prefill":
            self._end_prefill(host, job)
        return complete

    def _prefill_of(self, host: Host, job: Job) -> Prefill:
        return self._prefills.get(job.rid) or self._begin_prefill(host, job)

    def _begin_prefill(self, host: Host, job: Job) -> Prefill:
        assert job.prepared is not None
        tokens = job.prepared.tokens
        job.timing.prefill_started = time.monotonic()
        self.keep_all()
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

    def _admit(self, host: Host, lane: Lane, jobs: list[Job]) -> list[Emitted]:
        """Start the jobs' rows, all in one step, or let parked ones go on. Returns first tokens."""
        fresh: list[Start] = []
        for job in jobs:
            if parked := self.parked.pop(job.rid, None):
                for one in parked:
                    host.batch_for(lane).resume(one)
            else:
                fresh += self._rows_of(host, job)
        if not fresh:
            return []
        self._threads.fit(len(fresh) * host.widest)
        if host.mergeable:
            return host.batch_for(lane).start(fresh)
        return [one for start in fresh for one in host.batch_for(lane).start([start])]

    def _rows_of(self, host: Host, job: Job) -> list[Start]:
        """Return the rows of a job whose prompt is computed."""
        prefill = self._prefill_of(host, job)
        if job.method == "prefill":
            self._end_prefill(host, job)
            return []
        self._prefills.pop(job.rid)
        job.draft = self._open_draft(host, job)
        job.timing.decode_started = time.monotonic()
        count = job.params["n"]
        prompts = [prefill] * count if host.mergeable else _separate(prefill, count)
        return [
            Start(self._new_row(host, job, index), prompt) for index, prompt in enumerate(prompts)
        ]

    def _new_row(self, host: Host, job: Job, index: int) -> Row:
        choice = new_choice(host, job, index)
        job.choices.append(choice)
        self._next_uid += 1
        self.rows[self._next_uid] = (job, choice)
        return new_row(host, job, choice, self._next_uid)

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

    def _decode(self, host: Host, batch: DecodeBatch, *, alone: bool) -> None:
        """Bring the batch a step forward, or a single sequence several tokens."""
        self._threads.fit(len(batch) * host.widest)
        job, choice = self.rows[batch.rows[0].uid]
        draft = job.draft
        if draft is None or not (alone and draft.worthwhile):
            started = time.monotonic()
            last = all(self._is_last(row) for row in batch.rows)
            emitted = batch.step(last=last)
            if not last:
                host.pacer.observe_step(time.monotonic() - started)
            self._take_tokens(host, emitted)
            return
        behind = _since(job, choice, draft.done)
        if len(behind) > LAG_MAX_TOKENS:
            draft.catch_up(behind[: host.pacer.chunk_tokens(decoding=True)])
            self._take_tokens(host, batch.step())
            return
        most = job.max_tokens - len(choice.tokens) - 1
        self._take_tokens(host, batch.speculate(draft, behind, most) if most > 0 else batch.step())

    def _is_last(self, row: Row) -> bool:
        """Whether the row's next token is the last that its request may have."""
        job, choice = self.rows[row.uid]
        return not row.told and len(choice.tokens) + 1 >= job.max_tokens

    def _take_tokens(self, host: Host, emitted: list[Emitted]) -> None:
        """Hand tokens on. Several of one row come in order; behind its end there is nothing."""
        now = time.monotonic()
        self.counters["decode_steps"] += 1
        if self.counters["decode_steps"] % CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        ended = []
        for index, one in enumerate(emitted):
            found = self.rows.get(one.uid)
            if found is None or one.uid in ended:
                continue
            job, choice = found
            if not job.timing.first_token:
                job.timing.first_token = now
            self.counters["completion_tokens"] += 1
            if self._take_token(host, job, choice, one):
                surplus = sum(other.uid == one.uid for other in emitted[index + 1 :])
                ended.append(one.uid)
                if surplus and (batch := host.batch_of(one.uid)) is not None:
                    batch.rewind(surplus)
        if ended:
            self._rows_ended(host, ended)

    def _take_token(self, host: Host, job: Job, choice: Choice, one: Emitted) -> bool:
        """Hand one token on. Returns whether it is its row's last."""
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
        return reason is not None

    def _rows_ended(self, host: Host, uids: list[int]) -> None:
        """Take rows out, all in one go, and end the jobs that have no other."""
        for batch in [one for batches in host.batches.values() for one in batches]:
            ended = [uid for uid in uids if batch.holds(uid)]
            if ended:
                self._remember(host, batch, ended)
                batch.remove(ended)
        rows = [self.rows.pop(uid) for uid in uids]
        for job, choice in rows:
            if not all(other.finish_reason for other in job.choices):
                self.scheduler.row_left(job.rid)
            elif job.rid in self.scheduler.entries:
                self._end_draft(job, choice)
                self.ended(job, job.result())

    def _remember(self, host: Host, batch: DecodeBatch, uids: list[int]) -> None:
        """Set aside what was computed for the jobs' first answers: `keep` comes to it."""
        first = [uid for uid in uids if self.rows[uid][1].index == 0]
        for uid, cache in zip(first, batch.caches_of(first), strict=True):
            job, choice = self.rows[uid]
            assert job.prepared is not None
            tokens = [*job.prepared.tokens, *choice.tokens]
            self._aside.append((host.fingerprint, tokens[: len(tokens) - batch.lag(uid)], cache))

    def keep(self) -> bool:
        """Remember what was set aside, now that all have been told. Returns whether there was any.

        While others decode it is one prompt a turn: all at once would be a pause in their text.
        """
        most = 1 if self.rows else len(self._aside)
        now, self._aside = self._aside[:most], self._aside[most:]
        for fingerprint, tokens, cache in now:
            try:
                self.prefixes.store(fingerprint, tokens, cache, durable=True, own=True)
            except Exception as exc:  # it is computed again when it is asked for; nobody fails
                print("Remembering a prompt failed:", outline(exc), file=sys.stderr, flush=True)
        return bool(now)

    def keep_all(self) -> None:
        """Remember everything, since it is about to be asked for, or the last chance."""
        while self._aside:
            self.keep()

    # ---- drafts

    def _open_draft(self, host: Host, job: Job) -> Draft | None:
        """Return the job's draft, or None with a note that says why there is none."""
        ref = job.ref.draft_ref
        if ref is None:
            return None
        small = self.host_of(ref.key)
        problem = draft_problem(host, small, job)
        if problem or small is None or job.prepared is None:
            job.notes.append(f"the draft model {ref.name} was not used: {problem}")
            return None
        small.last_used_s = time.monotonic()
        cache, done = self.prefixes.fetch(small.fingerprint, job.prepared.tokens)
        return Draft(ref.name, small.model, cache, done)

    def _end_draft(self, job: Job, choice: Choice) -> None:
        draft, ref = job.draft, job.ref.draft_ref
        small = None if ref is None else self.host_of(ref.key)
        if draft is None or small is None or job.prepared is None:
            return
        small.last_used_s = time.monotonic()
        self.counters["draft_proposed"] += draft.proposed
        self.counters["draft_accepted"] += draft.accepted
        if not draft.worthwhile:
            job.notes.append(f"the draft model {draft.name} was given up: too little was accepted")
        tokens = [*job.prepared.tokens, *choice.tokens]
        draft.rewind(draft.done - len(tokens))
        self.prefixes.store(small.fingerprint, tokens[: draft.done], draft.cache, durable=False)


def _separate(prefill: Prefill, count: int) -> list[Prefill]:
    """Return one prompt, with a cache of its own, per row where they cannot be merged."""
    copies = [
        Prefill(prefill.model, prefill.tokens, copied(prefill.cache, done, done), done)
        for done in [prefill.done] * (count - 1)
    ]
    return [prefill, *copies]


def _since(job: Job, choice: Choice, done: int) -> list[int]:
    """Return the tokens of the sequence behind the first `done`."""
    assert job.prepared is not None
    prompt = job.prepared.tokens
    if done >= len(prompt):
        return choice.tokens[done - len(prompt) :]
    return [*prompt[done:], *choice.tokens]
