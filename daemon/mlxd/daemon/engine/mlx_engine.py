"""The engine's loop: schedule, run, apply. One compute thread owns everything of MLX.

Requests come in through the inbox, prompts come from the preparer, tokens go out to the front in
one message per turn.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors

from mlxd.daemon.engine.job import Choice, Job, ModelRef, Timing, markers_of
from mlxd.daemon.engine.link import FrontGone, Inbox, Link
from mlxd.daemon.engine.mlx_batch import Cache, Emitted, Parked, Prefill, Row
from mlxd.daemon.engine.mlx_models import Host
from mlxd.daemon.engine.mlx_prefix import PrefixCache
from mlxd.daemon.engine.mlx_preparer import (
    PreparedJob,
    Preparer,
    TokenizerReady,
    detokenize,
    tokenize,
)
from mlxd.daemon.engine.mlx_residents import Residents
from mlxd.daemon.engine.mlx_sampling import SamplingParams, choice_seed
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.scheduler import RANKS, Entry, Lane, Scheduler, State, Turn
from mlxd.daemon.engine.text import Channel, Markers, TextSplitter
from mlxd.protocol.errors import ERRORS, Cancelled, Internal, MlxdError, OutOfMemory
from mlxd.protocol.messages import Notification, Request

IDLE_POLL_S = 2.0
"""How often an idle engine looks at memory pressure and keep-alive times."""
KV_BUDGET_MIN_BYTES = 64 * 2**20
CLEAR_CACHE_STEPS = 512  # as in mlx-lm: gives back buffers that shapes of the past needed


class Engine:
    """Collaborators are passed in; `run` returns when the front has gone or nothing is left."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        link: Link,
        preparer: Preparer,
        prefixes: PrefixCache,
        options: EngineOptions,
        budget_bytes: int,
    ) -> None:
        self.inbox = inbox
        self.link = link
        self.preparer = preparer
        self.prefixes = prefixes
        self.options = options
        self.scheduler = Scheduler(max_rows=options.max_rows)
        self.residents = Residents(
            preparer=preparer,
            budget_bytes=budget_bytes,
            default_keep_alive_s=options.keep_alive_s,
            requests=self._requests_of,
            on_gone=self._host_gone,
        )
        self.jobs: dict[int, Job] = {}
        self.counters: Counter[str] = Counter()
        self._rows: dict[int, tuple[Job, Choice]] = {}
        self._prefills: dict[int, Prefill] = {}
        self._parked: dict[int, list[Parked]] = {}
        self._load_answers: dict[str, list[Any]] = {}
        self._events: list[list[Any]] = []
        self._next_uid = 0
        self._stopping = False
        self._empty_since = time.monotonic()
        self._residents_changed = False

    # ---- the loop

    def run(self) -> str:
        """Work until the front has gone ("front gone") or nothing is resident ("empty")."""
        while not self._stopping:
            turn = self._schedule()
            self._run(turn)
            self._apply()
            if self._is_empty():
                return "empty"
        return "front gone"

    def _schedule(self) -> Turn:
        """Take in what has come, waiting if there is nothing to do; then choose the next turn."""
        for message in self._received(wait=False):
            self._take_in(message)
        turn = self.scheduler.plan()
        while turn.idle and not self._loadable() and not self._events and not self._stopping:
            for message in self._received(wait=True):
                self._take_in(message)
            self._housekeeping()
            if self._is_empty():
                break
            turn = self.scheduler.plan()
        return turn

    def _run(self, turn: Turn) -> None:
        if turn.lane is not None:
            try:
                self._run_lane(turn, turn.lane)
            except Exception as exc:  # one lane's failure must not end the others
                self._lane_failed(turn.lane, exc)
        if self._loadable():
            self._load_a_slice()

    def _run_lane(self, turn: Turn, lane: Lane) -> None:
        host = self.residents.hosts[lane.model]
        for rid in turn.park:
            self._park(host, self.jobs[rid])
        for rid in turn.admit:
            self._admit(host, lane, self.jobs[rid])
        if turn.decode:
            for batch in list(host.batches.get(lane, ())):
                self._take_tokens(host, batch.step())
            host.tidy()
        if turn.prefill is not None and turn.prefill in self.jobs:
            self._prefill(host, lane, self.jobs[turn.prefill])

    def _apply(self) -> None:
        """Send what the turn brought, in one message."""
        if self._events:
            self.link.notify("step", {"events": self._events})
            self._events = []
        if self._residents_changed:
            self._residents_changed = False
            self.link.notify("resident", {"models": self.residents.records()})

    # ---- what comes in

    def _received(self, *, wait: bool) -> Iterable[Any]:
        try:
            if wait:
                timeout_s = min(IDLE_POLL_S, max(0.01, self.residents.next_expiry_s()))
                yield self.inbox.get(timeout=timeout_s)
            while True:
                yield self.inbox.get_nowait()
        except queue.Empty:
            return

    def _take_in(self, message: Any) -> None:
        if isinstance(message, FrontGone):
            self._stopping = True
        elif isinstance(message, Notification):
            NOTIFICATIONS.get(message.method, _ignore)(self, message.params)
        elif isinstance(message, Request):
            try:
                REQUESTS[message.method](self, message)
            except MlxdError as error:
                self.link.refuse(message.id, error)
        elif isinstance(message, PreparedJob):
            self._prepared(message)
        elif isinstance(message, TokenizerReady):
            self._guard_load(message.key, lambda: self.residents.tokenizer_ready(message))

    def _submit(self, params: dict[str, Any]) -> None:
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
            timing=Timing(),
        )
        self.jobs[job.rid] = job
        self.counters["requests"] += 1
        try:
            if not self.residents.want(job.ref, given.get("keep_alive_s")):
                self._emit(job.rid, "loading", {"model": job.ref.name})
            self.preparer.prepare(job)
        except MlxdError as error:
            self._fail(job, error)

    def _prepared(self, message: PreparedJob) -> None:
        job = self.jobs.get(message.rid)
        if job is None:
            return
        if message.error is not None:
            self._fail(job, message.error)
            return
        job.prepared = message.prepared
        host = self.residents.hosts.get(job.ref.key)
        if host is not None:
            self._enqueue(host, job)
        elif job.ref.key not in self.residents.loading:
            self._want_again(job)

    def _want_again(self, job: Job) -> None:
        """The model went away while the prompt was being prepared."""
        try:
            self.residents.want(job.ref)
        except MlxdError as error:
            self._fail(job, error)

    def _cancel(self, params: dict[str, Any]) -> None:
        job = self.jobs.get(params["rid"])
        if job is None:
            return
        code = params.get("code", "cancelled")
        kind = ERRORS.get(code, Cancelled)
        words = {
            "superseded": "A newer request took this one's place.",
            "deadline_exceeded": "The request's time is up.",
        }
        error = kind(words.get(code, "The request was cancelled."), data={"usage": job.usage()})
        self.counters[f"ended_{code}"] += 1
        self._keep_partial(job)
        self._fail(job, error)

    def _load(self, request: Request) -> None:
        ref = ModelRef.from_map(request.params["model"])
        pin = bool(request.params.get("pin"))
        if self.residents.want(ref, request.params.get("keep_alive_s"), pin):
            self.link.answer(request.id, self._load_result(self.residents.hosts[ref.key]))
        else:
            self._load_answers.setdefault(ref.key, []).append(request.id)

    def _unload(self, request: Request) -> None:
        name = request.params["name"]
        found = [key for key, host in self.residents.hosts.items() if host.ref.name == name]
        pending = sum(self._requests_of(key) for key in found)
        for key in found:
            if self._requests_of(key):
                self.residents.hosts[key].keep_alive_s = 0.0
                self.residents.hosts[key].pinned = False
            else:
                self.residents.let_go(key)
                self._residents_changed = True
        self.link.answer(request.id, {"unloaded": bool(found), "pending_requests": pending})

    def _ps(self, request: Request) -> None:
        self.link.answer(request.id, {"models": self.residents.records()})

    def _stats(self, request: Request) -> None:
        waiting = sum(e.state is State.WAITING for e in self.scheduler.entries.values())
        stats = {
            **self.counters,
            "rows_decoding": len(self._rows),
            "jobs": len(self.jobs),
            "jobs_waiting": waiting,
            "jobs_parked": len(self._parked),
            "models_loaded_total": self.residents.loaded_total,
            "models_evicted_total": self.residents.evicted_total,
            "weights_bytes": self.residents.weights_bytes(),
            "active_bytes": mx.get_active_memory(),
            "peak_bytes": mx.get_peak_memory(),
            "cache_bytes": mx.get_cache_memory(),
            "budget_bytes": self.residents.budget_bytes,
        }
        stats.update({f"prefix_{name}": value for name, value in self.prefixes.stats().items()})
        self.link.answer(request.id, stats)

    def _with_tokenizer(self, request: Request, work: Callable[..., Any]) -> None:
        params = dict(request.params)
        ref = ModelRef.from_map(params.pop("model"))

        def done(result: Any, error: MlxdError | None) -> None:
            if error is None:
                self.link.answer(request.id, result)
            else:
                self.link.refuse(request.id, error)

        self.preparer.answer(lambda tokenizer: work(tokenizer, params), ref, done)

    def _tokenize(self, request: Request) -> None:
        self._with_tokenizer(request, tokenize)

    def _detokenize(self, request: Request) -> None:
        self._with_tokenizer(request, detokenize)

    # ---- models

    def _loadable(self) -> bool:
        return self.residents.busy

    def _load_a_slice(self) -> None:
        self._guard_load(self.residents.first_in_queue, self.residents.advance)

    def _guard_load(self, key: str, work: Callable[[], Host | None]) -> None:
        try:
            host = work()
        except MlxdError as error:
            self.residents.drop_loading(key)
            for request_id in self._load_answers.pop(key, []):
                self.link.refuse(request_id, error)
            for job in self._jobs_of(key):
                self._fail(job, error)
            return
        if host is not None:
            self._host_ready(host)

    def _host_ready(self, host: Host) -> None:
        self._residents_changed = True
        self._fit_kv_budget()
        for request_id in self._load_answers.pop(host.ref.key, []):
            self.link.answer(request_id, self._load_result(host))
        now = time.monotonic()
        for job in self._jobs_of(host.ref.key):
            job.timing.load_s = now - job.timing.received
            if job.prepared is not None:
                self._enqueue(host, job)

    def _host_gone(self, host: Host) -> None:
        self._residents_changed = True
        self._empty_since = time.monotonic()
        self._fit_kv_budget()

    def _fit_kv_budget(self) -> None:
        free = self.residents.budget_bytes - self.residents.weights_bytes()
        self.scheduler.kv_budget_bytes = max(free, KV_BUDGET_MIN_BYTES)

    @staticmethod
    def _load_result(host: Host) -> dict[str, Any]:
        return {"model": host.ref.name, "bytes": host.bytes, "load_s": round(host.load_s, 3)}

    def _housekeeping(self) -> None:
        if self.residents.expire():
            self._residents_changed = True

    def _is_empty(self) -> bool:
        """Whether the process holds nothing, so that its end gives all memory back."""
        if self.residents.hosts or self.residents.loading or self.jobs or self._events:
            return False
        waited = time.monotonic() - self._empty_since >= self.options.empty_exit_s
        return self.inbox.empty() and (self.residents.loaded_total > 0 or waited)

    def _requests_of(self, key: str) -> int:
        return sum(1 for _ in self._jobs_of(key))

    def _jobs_of(self, key: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.ref.key == key]

    # ---- from prompt to rows

    def _enqueue(self, host: Host, job: Job) -> None:
        assert job.prepared is not None
        try:
            kv_bytes = self._limits(host, job)
        except MlxdError as error:
            self._fail(job, error)
            return
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

    def _limits(self, host: Host, job: Job) -> int:
        """Set `max_tokens` and return the KV bytes that the job may come to hold."""
        assert job.prepared is not None
        prompt_tokens = len(job.prepared.tokens)
        context = host.tokenizer.context_tokens
        job.max_tokens = job.params["max_tokens"]
        if context is not None and prompt_tokens + job.max_tokens > context:
            job.max_tokens = context - prompt_tokens
            job.notes.append(f"max_tokens lowered to {job.max_tokens} by the context of {context}")
        rows = job.params["n"]
        kv_bytes = (prompt_tokens + job.max_tokens) * rows * host.kv_bytes_per_token
        if kv_bytes > self.scheduler.kv_budget_bytes:
            raise OutOfMemory(
                f"The request may need {kv_bytes / 1e9:.2f} GB for its KV cache and "
                f"{self.scheduler.kv_budget_bytes / 1e9:.2f} GB are free beside the weights.",
                hint="Lower max_tokens or n, shorten the prompt, or unload other models.",
                data={
                    "need_bytes": kv_bytes,
                    "free_bytes": int(self.scheduler.kv_budget_bytes),
                },
            )
        return kv_bytes

    def _prefill(self, host: Host, lane: Lane, job: Job) -> None:
        prefill = self._prefills.get(job.rid)
        if prefill is None:
            prefill = self._begin_prefill(host, job)
        decoding = self.scheduler.decoding_in(lane) > 0
        limit = min(host.pacer.chunk_tokens(decoding=decoding), self._to_next_cut(host, job))
        started = time.monotonic()
        count = prefill.run(limit)
        host.pacer.observe(count, time.monotonic() - started)
        if count:
            self.counters["prompt_tokens_computed"] += count
            self.scheduler.prefilled(job.rid, count)
            self._emit(job.rid, "prefill", {"done": prefill.done + 1, "total": job.prompt_tokens})
            self._snapshot_at_cut(host, job)
        if prefill.left <= 0:
            self._prompt_complete(host, job)

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

    def _prompt_complete(self, host: Host, job: Job) -> None:
        if job.method != "prefill":
            return
        prefill = self._prefills.pop(job.rid)
        self.prefixes.store(
            host.fingerprint, prefill.tokens[: prefill.done], prefill.cache, durable=True
        )
        job.timing.decode_started = time.monotonic()
        self._end(job, {key: job.result()[key] for key in ("usage", "timing", "applied")})

    def _keep_partial(self, job: Job) -> None:
        """Keep what was computed of a prompt, for the request that takes this one's place."""
        prefill = self._prefills.get(job.rid)
        host = self.residents.hosts.get(job.ref.key)
        if prefill is not None and host is not None and prefill.done > 0:
            done = prefill.tokens[: prefill.done]
            self.prefixes.store(host.fingerprint, done, prefill.cache, durable=False)

    def _admit(self, host: Host, lane: Lane, job: Job) -> None:
        if parked := self._parked.pop(job.rid, None):
            for one in parked:
                host.batch_for(lane).resume(one)
            return
        prefill = self._prefills.get(job.rid) or self._begin_prefill(host, job)
        if job.method == "prefill":
            self._prompt_complete(host, job)
            return
        if prefill.left > 0:
            prefill.run(prefill.left)
        self._prefills.pop(job.rid)
        job.timing.decode_started = time.monotonic()
        rows = [self._new_row(host, job, index) for index in range(job.params["n"])]
        last = prefill.tokens[-1]
        if host.mergeable:
            host.batch_for(lane).start(rows, [prefill.cache] * len(rows), [last] * len(rows))
            return
        for row, cache in zip(rows, self._separate(prefill, len(rows), host), strict=True):
            host.batch_for(lane).start([row], [cache], [last])

    def _separate(self, prefill: Prefill, count: int, host: Host) -> list[Cache]:
        """Return one cache per row where they cannot be merged: the others are computed anew."""
        caches = [prefill.cache]
        for _ in range(count - 1):
            again = Prefill(host.model, prefill.tokens)
            while again.left:
                again.run(again.left)
            caches.append(again.cache)
        return caches

    def _new_row(self, host: Host, job: Job, index: int) -> Row:
        assert job.prepared is not None
        choice = self._new_choice(host, job, index)
        job.choices.append(choice)
        self._next_uid += 1
        self._rows[self._next_uid] = (job, choice)
        params, prepared = job.params, job.prepared
        processors = _processors(params)
        context_size = params["repetition_context_size"]
        wrapper = host.tokenizer.wrapper
        thinks = choice.splitter.channel is Channel.REASONING
        return Row(
            uid=self._next_uid,
            sampling=_sampling(params, choice_seed(job.seed, index), wrapper),
            processors=processors,
            context=mx.array(prepared.tokens[:-1][-context_size:], dtype=mx.uint32)
            if processors and len(prepared.tokens) > 1
            else None,
            context_size=context_size,
            constraint=prepared.constraint.start() if prepared.constraint else None,
            constrain_after=tuple(wrapper.think_end_tokens) if thinks else (),
            logprobs=params["logprobs"],
        )

    @staticmethod
    def _new_choice(host: Host, job: Job, index: int) -> Choice:
        assert job.prepared is not None
        wrapper = host.tokenizer.wrapper
        # Raw continuations are handed through as they are; only chats have reasoning and tools.
        markers = markers_of(wrapper) if job.method == "chat" else Markers()
        channel = Channel.REASONING if job.prepared.reasoning else Channel.ANSWER
        stops = tuple(job.params.get("stop") or ())
        return Choice(
            index=index,
            splitter=TextSplitter(markers, stops, channel),
            detokenizer=wrapper.detokenizer,
            tool_parser=wrapper.tool_parser,
            tools=job.params.get("tools"),
        )

    def _park(self, host: Host, job: Job) -> None:
        """Take the job's rows out of the batch, with their KV and their next token."""
        parked = []
        for uid in self._uids_of(job):
            batch = host.batch_of(uid)
            assert batch is not None
            parked.append(batch.park(uid))
        self._parked[job.rid] = parked
        self.counters["parked"] += 1
        host.tidy()

    # ---- tokens

    def _take_tokens(self, host: Host, emitted: list[Emitted]) -> None:
        now = time.monotonic()
        self.counters["decode_steps"] += 1
        if self.counters["decode_steps"] % CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        for one in emitted:
            job, choice = self._rows[one.uid]
            if not job.timing.first_token:
                job.timing.first_token = now
            self._take_token(host, job, choice, one)
        self.counters["completion_tokens"] += len(emitted)

    def _take_token(self, host: Host, job: Job, choice: Choice, one: Emitted) -> None:
        ends = self._is_end(host, job, one.token)
        events = choice.accept(one.token, ends=ends)
        if one.logprob is not None:
            choice.logprobs.append(_logprob_entry(host, one))
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
        for event in events:
            self._emit(job.rid, *event)
        if reason is not None:
            self._choice_ended(host, job, choice, one.uid)

    @staticmethod
    def _is_end(host: Host, job: Job, token: int) -> bool:
        assert job.prepared is not None
        if job.params["ignore_eos"] and job.prepared.constraint is None:
            return False
        return token in host.tokenizer.wrapper.eos_token_ids or token in job.prepared.extra_eos

    def _choice_ended(self, host: Host, job: Job, choice: Choice, uid: int) -> None:
        batch = host.batch_of(uid)
        assert batch is not None
        assert job.prepared is not None
        if choice.index == 0:
            tokens = [*job.prepared.tokens, *choice.tokens]
            self.prefixes.store(host.fingerprint, tokens, batch.cache_of(uid), durable=True)
        batch.remove([uid])
        del self._rows[uid]
        if all(other.finish_reason for other in job.choices):
            if job.prepared.constraint is not None and any(
                other.finish_reason == "length" for other in job.choices
            ):
                job.notes.append("cut by max_tokens: the text may not satisfy the constraint yet")
            self._end(job, job.result())
        else:
            self.scheduler.row_left(job.rid)

    # ---- ends

    def _end(self, job: Job, result: dict[str, Any]) -> None:
        self._emit(job.rid, "end", result)
        self.counters["ended"] += 1
        self._forget(job)

    def _fail(self, job: Job, error: MlxdError) -> None:
        self._emit(job.rid, "error", error.to_map())
        self.counters["failed"] += 1
        host = self.residents.hosts.get(job.ref.key)
        uids = self._uids_of(job)
        for uid in uids:
            batch = host.batch_of(uid) if host is not None else None
            if batch is not None:
                batch.remove([uid])
            del self._rows[uid]
        self._forget(job)

    def _forget(self, job: Job) -> None:
        self.jobs.pop(job.rid, None)
        self._prefills.pop(job.rid, None)
        self._parked.pop(job.rid, None)
        self.scheduler.remove(job.rid)
        if host := self.residents.hosts.get(job.ref.key):
            host.last_used_s = time.monotonic()
            host.tidy()

    def _lane_failed(self, lane: Lane, exc: Exception) -> None:
        text = f"{type(exc).__name__}: {exc}"
        error: MlxdError
        if isinstance(exc, MlxdError):
            error = exc
        elif isinstance(exc, MemoryError) or "malloc" in text or "memory" in text.lower():
            error = OutOfMemory(f"The model ran out of memory: {text[:200]}")
        else:
            error = Internal(f"Computing failed: {text[:300]}")
        host = self.residents.hosts[lane.model]
        rids = [e.job for e in self.scheduler.entries.values() if e.lane == lane]
        host.batches.pop(lane, None)
        for rid in rids:
            self._fail(self.jobs[rid], error)

    def _uids_of(self, job: Job) -> list[int]:
        return [uid for uid, (owner, _) in self._rows.items() if owner is job]

    def _emit(self, rid: int, kind: str, payload: dict[str, Any]) -> None:
        self._events.append([rid, kind, payload])


def _ignore(_engine: Engine, _params: dict[str, Any]) -> None:
    """Unknown notifications are ignored, as on the public socket."""


NOTIFICATIONS: dict[str, Callable[[Engine, dict[str, Any]], None]] = {
    "submit": Engine._submit,
    "cancel": Engine._cancel,
}
REQUESTS: dict[str, Callable[[Engine, Request], None]] = {
    "load": Engine._load,
    "unload": Engine._unload,
    "ps": Engine._ps,
    "stats": Engine._stats,
    "tokenize": Engine._tokenize,
    "detokenize": Engine._detokenize,
}


def _sampling(params: dict[str, Any], seed: int, wrapper: Any) -> SamplingParams:
    exempt: tuple[int, ...] = ()
    if params["xtc_probability"] > 0:
        newline = wrapper.encode("\n", add_special_tokens=False)
        exempt = tuple({*newline[-1:], *wrapper.eos_token_ids})
    return SamplingParams(
        temperature=params["temperature"],
        top_p=params["top_p"],
        top_k=params["top_k"],
        min_p=params["min_p"],
        min_tokens_to_keep=params["min_tokens_to_keep"],
        xtc_probability=params["xtc_probability"],
        xtc_threshold=params["xtc_threshold"],
        xtc_exempt=exempt,
        seed=seed,
    )


def _processors(params: dict[str, Any]) -> tuple[Any, ...]:
    size = params["repetition_context_size"]
    penalty = params["repetition_penalty"]
    return tuple(
        make_logits_processors(
            logit_bias=params.get("logit_bias") or None,
            repetition_penalty=penalty if penalty != 1.0 else None,
            repetition_context_size=size,
            presence_penalty=params["presence_penalty"] or None,
            presence_context_size=size,
            frequency_penalty=params["frequency_penalty"] or None,
            frequency_context_size=size,
        )
    )


def _logprob_entry(host: Host, one: Emitted) -> dict[str, Any]:
    decode = host.tokenizer.wrapper.decode
    return {
        "token": one.token,
        "text": decode([one.token]),
        "logprob": one.logprob,
        "top": [
            {"token": token, "text": decode([token]), "logprob": value} for token, value in one.top
        ],
    }
