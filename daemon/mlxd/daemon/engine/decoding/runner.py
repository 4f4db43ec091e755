"""Carries out what the scheduler decided: rows that start, decode, are parked, and end."""

from __future__ import annotations

import time
from collections.abc import Callable

import mlx.core as mx

from mlxd.daemon.engine.decoding.batch import DecodeBatch, Emitted, Parked, Row, Start
from mlxd.daemon.engine.decoding.sequences import (
    draft_problem,
    is_end,
    logprob_entry,
    new_choice,
    new_row,
)
from mlxd.daemon.engine.decoding.speculative import LAG_MAX_TOKENS, Draft
from mlxd.daemon.engine.kvcache.prefix_cache import copied
from mlxd.daemon.engine.models.loader import Host
from mlxd.daemon.engine.prefill.chunks import Prefill
from mlxd.daemon.engine.prefill.manager import Prompts
from mlxd.daemon.engine.request import Choice, Job
from mlxd.daemon.engine.scheduling.scheduler import Entry, Lane, Turn
from mlxd.protocol.errors import OutOfMemory

CLEAR_CACHE_STEPS = 512  # as in mlx-lm: gives back buffers that shapes of the past needed


class Runner:
    """Owns the rows and the parked sequences of all jobs; `prompts` has what is not complete.

    Both work with the same scheduler, caches and counters, and tell the same engine. `host_of(key)`
    finds resident models.
    """

    def __init__(self, prompts: Prompts, host_of: Callable[[str], Host | None]) -> None:
        self.prompts = prompts
        self.scheduler = prompts.scheduler
        self.prefixes = prompts.prefixes
        self.counters = prompts.counters
        self.requests = prompts.requests
        self.host_of = host_of
        self.parked: dict[int, list[Parked]] = {}
        self.rows: dict[int, tuple[Job, Choice]] = {}
        self._next_uid = 0
        self._backend = prompts.backend

    def enqueue(self, host: Host, job: Job) -> None:
        """Hand a job with its prompt to the scheduler.

        Raises:
            OutOfMemory: its KV cache could never fit beside the weights.
        """
        assert job.prepared is not None
        kv_bytes = self._limits(host, job)
        job.notes += job.prepared.notes
        job.prompt_tokens = len(job.prepared.tokens)
        self.requests.publish(job)
        job.batched = host.mergeable
        if not host.mergeable:
            job.notes.append("this model's cache cannot be merged: it was served alone")
        self.scheduler.add(
            Entry(
                job=job.rid,
                lane=Lane(job.rank, host.ref.key),
                conn=job.conn,
                rows=job.generation.n,
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
        self.prompts.run(host, lane, [jobs[rid] for rid in turn.prefill if rid in jobs])

    def forget(self, job: Job, host: Host | None) -> None:
        """Drop everything that belongs to a job that ended, in whatever state."""
        for uid in self._uids_of(job):
            batch = host.batch_of(uid) if host is not None else None
            if batch is not None:
                batch.remove([uid])
            del self.rows[uid]
        self.prompts.forget(job)
        self.parked.pop(job.rid, None)
        self.scheduler.remove(job.rid)
        if host is not None:
            host.last_used_s = time.monotonic()
            host.tidy()

    def _limits(self, host: Host, job: Job) -> int:
        """Set `max_tokens` and return the KV bytes that the job may come to hold."""
        assert job.prepared is not None
        prompt_tokens = len(job.prepared.tokens)
        context = host.tokenizer.context_tokens
        job.max_tokens = job.generation.max_tokens
        if context is not None and prompt_tokens + job.max_tokens > context:
            job.max_tokens = context - prompt_tokens
            job.notes.append(f"max_tokens lowered to {job.max_tokens} by the context of {context}")
        tokens = (prompt_tokens + job.max_tokens) * job.generation.n
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
        self._backend.before_pass(len(fresh), host.widest)
        if host.mergeable:
            return host.batch_for(lane).start(fresh)
        return [one for start in fresh for one in host.batch_for(lane).start([start])]

    def _rows_of(self, host: Host, job: Job) -> list[Start]:
        """Return the rows of a job whose prompt is computed."""
        if job.method == "prefill":
            self.prompts.end(host, job)
            return []
        prefill = self.prompts.take(host, job)
        job.draft = self._open_draft(host, job)
        job.timing.decode_started = time.monotonic()
        count = job.generation.n
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
        self._backend.before_pass(len(batch), host.widest)
        job, choice = self.rows[batch.rows[0].uid]
        draft = job.draft
        if draft is None or not (alone and draft.worthwhile):
            self._take_tokens(host, self._step(host, batch))
            return
        behind = _since(job, choice, draft.done)
        if len(behind) > LAG_MAX_TOKENS:
            draft.catch_up(behind[: host.pacer.chunk_tokens(decoding=True)])
            self._take_tokens(host, batch.step())
            return
        most = job.max_tokens - len(choice.tokens) - 1
        self._take_tokens(host, batch.speculate(draft, behind, most) if most > 0 else batch.step())

    def _step(self, host: Host, batch: DecodeBatch) -> list[Emitted]:
        """Bring every row a token forward."""
        started = time.monotonic()
        if not self._backend.overlap(host.pacer.step_s):
            emitted, whole = batch.step_alone(), True
        else:
            last = all(self._is_last(row) for row in batch.rows)
            emitted, whole = batch.step(last=last), not last
        if whole:
            host.pacer.observe_step(time.monotonic() - started)
        return emitted

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
        self.requests.publish(job)
        self.scheduler.decoded(job.rid, 1)
        reason = None
        if ends or choice.splitter.stopped:
            reason = "stop"
        elif len(choice.tokens) >= job.max_tokens:
            reason = "length"
        if reason is not None:
            events += choice.finish(reason)
        for kind, payload in events:
            self.requests.emit(job, kind, payload)
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
                self.requests.end(job, job.result())
                self.forget(job, host)

    def _remember(self, host: Host, batch: DecodeBatch, uids: list[int]) -> None:
        """Set aside what was computed for the jobs' first answers: callers need not wait for it."""
        first = [uid for uid in uids if self.rows[uid][1].index == 0]
        for uid, cache in zip(first, batch.caches_of(first), strict=True):
            job, choice = self.rows[uid]
            assert job.prepared is not None
            tokens = [*job.prepared.tokens, *choice.tokens]
            known = tokens[: len(tokens) - batch.lag(uid)]
            self.prefixes.set_aside(host.fingerprint, known, cache)

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
        last_id = min(host.tokenizer.model_tokens, small.tokenizer.model_tokens) - 1
        return Draft(ref.name, small.model, cache, done, last_id=last_id)

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
