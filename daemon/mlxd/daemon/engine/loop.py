"""The engine's loop: schedule, run, apply. One compute thread owns everything of MLX.

Requests come in through the inbox, prompts come from the preparer, tokens go out to the front in
one message per turn.
"""

from __future__ import annotations

import math
import os
import queue
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from mlxd.daemon.engine import rpc
from mlxd.daemon.engine.backend.cpu import rope_norm
from mlxd.daemon.engine.backend.cpu.blas import blas_threads
from mlxd.daemon.engine.backend.cpu.kernels import keep_kernels
from mlxd.daemon.engine.backend.shortages import as_error
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import FrontGone, Inbox, Link
from mlxd.daemon.engine.models import memory
from mlxd.daemon.engine.models.loader import Host
from mlxd.daemon.engine.models.manager import Residents, load_result
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.prefill.manager import TOGETHER_CHUNKS, Prompts
from mlxd.daemon.engine.request import Job, ModelRef
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import BURST_S, MAKING_S, Arrivals
from mlxd.daemon.engine.scheduling.scheduler import RANKS, Lane, Scheduler, Turn
from mlxd.daemon.engine.tokenization.worker import PreparedJob, Preparer, TokenizerReady
from mlxd.daemon.words import outline
from mlxd.protocol.errors import ERRORS, Cancelled, MlxdError
from mlxd.protocol.messages import Notification, Request

IDLE_POLL_S = 2.0
"""How often an idle engine looks at memory pressure and keep-alive times."""
WAITS_AFTER_S = 1.0
"""When the front is told that there is nothing to do: between two requests it need not know."""
GIVE_BACK_AFTER_S = 30.0
"""How long an idle engine keeps freed memory for the next prompt."""
BLOCKED_POLL_S = 0.1
"""How often to try a load again that waits for room, while no request ends."""
ENDINGS = {
    "superseded": "A newer request took this one's place.",
    "deadline_exceeded": "The request's time is up.",
}


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
        kernel_builder: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.inbox = inbox
        self.link = link
        self.preparer = preparer
        self.prefixes = prefixes
        self.options = options
        self.scheduler = Scheduler(max_rows=options.max_rows)
        self.announcer = Announcer(link.notify)
        self.residents = Residents(
            preparer=preparer,
            budget_bytes=budget_bytes,
            default_keep_alive_s=options.keep_alive_s,
            requests=self._requests_of,
            kv_bytes=self.scheduler.kv_in_use,
            make_way=self._make_way,
            on_gone=self._host_gone,
            pressure=lambda: memory.pressure(options.pressure_file),
            on_slice=self.announcer.load,
        )
        self.jobs: dict[int, Job] = {}
        self.counters: Counter[str] = Counter()
        self._arrivals = Arrivals()
        self._kernel_builder = kernel_builder
        prompts = Prompts(
            scheduler=self.scheduler,
            prefixes=prefixes,
            counters=self.counters,
            threads=blas_threads(),
            emit=self._emit,
            ended=self._end,
        )
        self.runner = Runner(prompts, host_of=self.residents.hosts.get)
        self._loads: list[tuple[Any, ModelRef, bool]] = []
        self._events: list[list[Any]] = []
        self._stopping = False
        self._empty_since = time.monotonic()
        self._residents_changed = False
        self._housekeeping_s = 0.0
        self._give_back_s = math.inf
        link.overhears = self._overhear

    # ---- the loop

    def run(self) -> str:
        """Work until the front has gone ("front gone") or nothing is resident ("empty")."""
        while not self._stopping:
            turn = self._schedule()
            self._announce(turn)
            self._apply()  # who was cancelled or refused is told before the next step, not after
            self._run(turn)
            self._apply()
            # While others decode, one a turn: all at once would be a pause in their text.
            if self.prefixes.store_aside(1 if self.runner.rows else None):
                self._make_way(0)
            if self._is_empty():
                return "empty"
        return "front gone"

    def _schedule(self) -> Turn:
        """Take in what has come, waiting if there is nothing to do; then choose the next turn."""
        for message in self._received(wait=False):
            self._take_in(message)
        self._await_company()
        self._housekeeping()
        turn = self.scheduler.plan()
        while turn.idle and not (self._can_load() or self._to_tell() or self._stopping):
            for message in self._received(wait=True):
                self._take_in(message)
            self._housekeeping()
            if self._is_empty() or self.residents.blocked:
                break
            self._await_company()
            turn = self.scheduler.plan()
        return turn

    def _await_company(self) -> None:
        """Wait a moment for prompts that are being tokenized right now.

        Prompts that come together share a pass; and whoever comes while others decode would
        otherwise wait for another step of theirs. Whoever comes alone waits for nobody, and
        however many come, nobody waits longer than `MAKING_S`.
        """
        until_s = time.monotonic() + MAKING_S
        while self.scheduler.entries:
            wait_s = min(self._company_until_s(), until_s) - time.monotonic()
            if wait_s <= 0:
                return
            try:
                self._take_in(self.inbox.get(timeout=wait_s))
            except queue.Empty:
                return

    def _company_until_s(self) -> float:
        made = [job for job in self.jobs.values() if job.prepared is None]
        if not self.runner.rows:
            return self._arrivals.company_until_s([job.timing.received for job in made])
        if not made:
            return 0.0
        running = min(job.rank for job, _ in self.runner.rows.values())
        return max(job.timing.received + _patience_s(job, running) for job in made)

    def _to_tell(self) -> bool:
        return bool(self._events) or self._residents_changed

    def _can_load(self) -> bool:
        return self.residents.next_key is not None and not self.residents.blocked

    def _announce(self, turn: Turn) -> None:
        """Tell the front what comes next, and whose prompts are begun."""
        if turn.lane is None:
            return
        pacer = self.residents.hosts[turn.lane.model].pacer
        for rid in (*turn.admit, *turn.prefill):
            if not self.jobs[rid].begun:
                self.jobs[rid].begun = True
                self._emit(rid, "begun", {})
        asked = sum(self.scheduler.entries[rid].prompt_left for rid in turn.prefill)
        chunk = pacer.chunk_tokens(decoding=False) * TOGETHER_CHUNKS
        weights_bytes = self.residents.hosts[turn.lane.model].bytes
        self.announcer.compute(pacer.expected_s(min(asked, chunk), weights_bytes))

    def _run(self, turn: Turn) -> None:
        if turn.lane is not None:
            started_s = time.monotonic()
            self._give_back_s = started_s + GIVE_BACK_AFTER_S
            host = self.residents.hosts[turn.lane.model]
            try:
                self.runner.run(turn, turn.lane, host, self.jobs)
            except Exception as exc:  # one lane's failure must not end the others
                self._lane_failed(turn.lane, exc)
            self._make_way(0)
            host.pacer.observe_turn(time.monotonic() - started_s)
        if (key := self.residents.next_key) is not None:
            self._guard_load(key, self.residents.advance)

    def _apply(self) -> None:
        """Send what the turn brought, in one message."""
        if self._events:
            self.link.notify("step", {"events": self._events})
            self._events = []
        if self._residents_changed:
            self._residents_changed = False
            resident = {
                "models": self.residents.records(),
                "evicted": self.residents.take_evictions(),
                "prompt_bounds": self.residents.prompt_bounds(),
            }
            self.link.notify("resident", resident)

    # ---- what comes in

    def _received(self, *, wait: bool) -> Iterable[Any]:
        if wait:
            try:
                yield self.inbox.get(timeout=self._wait_s())
            except queue.Empty:
                self.announcer.wait()
                return
        while not self.inbox.empty():
            yield self.inbox.get_nowait()

    def _wait_s(self) -> float:
        longest_s = BLOCKED_POLL_S if self.residents.blocked else IDLE_POLL_S
        if not self.announcer.waiting:
            longest_s = min(longest_s, WAITS_AFTER_S)
        return min(longest_s, max(0.01, self.residents.next_expiry_s()))

    def _take_in(self, message: Any) -> None:
        if isinstance(message, FrontGone):
            self._stopping = True
        elif isinstance(message, Notification):
            NOTIFICATIONS.get(message.method, _ignore)(self, message.params)
        elif isinstance(message, Request):
            try:
                REQUESTS[message.method](self, message)
            except Exception as exc:
                self.link.refuse(message.id, as_error(exc))
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
        )
        self._arrivals.came(job.timing.received, alone=not self.jobs)
        self.jobs[job.rid] = job
        self.counters["requests"] += 1
        # Again: caches are cleared, also under an engine that runs.
        keep_kernels(self.options.kernels_dir, os.environ)
        try:
            if not self.residents.want(job.ref, given.get("keep_alive_s")):
                self._emit(job.rid, "loading", {"model": job.ref.name})
            self.preparer.prepare(job)
        except Exception as exc:  # no thread for the prompt, say: this request's end, not ours
            self._fail(job, as_error(exc))

    def _prepared(self, message: PreparedJob) -> None:
        job = self.jobs.get(message.rid)
        if job is None:
            return
        if message.error is not None:
            self._fail(job, message.error)
            return
        job.prepared = message.prepared
        try:
            # Again, for a model that went away while the prompt was being prepared.
            self.residents.want(job.ref)
        except MlxdError as error:
            self._fail(job, error)
            return
        self._enqueue_if_ready(job)

    def _cancel(self, params: dict[str, Any]) -> None:
        job = self.jobs.get(params["rid"])
        if job is None:
            return
        error = _stopped(job, params)
        self.counters[f"ended_{error.code}"] += 1
        if host := self.residents.hosts.get(job.ref.key):
            self.runner.prompts.keep_partial(host, job)
        self._fail(job, error)

    def _overhear(self, message: Any) -> None:
        """Tell at once whoever stops its request, on the link's thread.

        The compute thread hears of it after its step or chunk, and then tells the request's end.
        """
        if isinstance(message, Notification) and message.method == "cancel":
            job = self.jobs.get(message.params["rid"])
            if job is not None:
                event = [job.rid, "stopping", _stopped(job, message.params).to_map()]
                self.link.notify("step", {"events": [event]})

    def _load(self, request: Request) -> None:
        ref = ModelRef.from_map(request.params["model"])
        params = request.params
        was_loaded = ref.key in self.residents.hosts
        self.residents.want(ref, params.get("keep_alive_s"), params.get("pin"))
        self._loads.append((request.id, ref, was_loaded))
        self._answer_loads()

    def _answer_loads(self) -> None:
        """Answer those whose models are all there."""
        hosts = self.residents.hosts
        for entry in [one for one in self._loads if hosts.keys() >= set(one[1].needs)]:
            self._loads.remove(entry)
            self.link.answer(entry[0], load_result(hosts[entry[1].key], was_loaded=entry[2]))

    def _unload(self, request: Request) -> None:
        found = self.residents.named(request.params)
        self.residents.unload_when_loaded(request.params)
        # What shares their weights goes first: only then is the memory free.
        found = [*self.residents.resting_on(found), *found]
        pending = sum(self._requests_of(key) for key in found)
        names = sorted({self.residents.hosts[key].ref.name for key in found})
        for key in found:
            if self._requests_of(key):
                self.residents.hosts[key].keep_alive_s = 0.0
                self.residents.hosts[key].pinned = False
            else:
                self.residents.let_go(key)
                self._residents_changed = True
        answer = {"unloaded": bool(found), "pending_requests": pending, "models": names}
        self.link.answer(request.id, answer)

    # ---- models

    def _guard_load(self, key: str, work: Callable[[], Host | None]) -> None:
        try:
            host = work()
        except MlxdError as error:
            self.residents.abandon(key, error)
            for request_id, *_ in [one for one in self._loads if key in one[1].needs]:
                self.link.refuse(request_id, error)
            self._loads = [one for one in self._loads if key not in one[1].needs]
            for job in self._jobs_of(key):
                self._load_failed(job, key, error)
            return
        if host is not None:
            self._host_ready(host)

    def _load_failed(self, job: Job, key: str, error: MlxdError) -> None:
        """End a job whose model cannot be loaded; without a draft model it goes on."""
        draft = job.ref.draft_ref
        if draft is None or key != draft.key or key == job.ref.key:
            self._fail(job, error)
            return
        job.notes.append(f"the draft model {draft.name} was not used: {error.message}")
        job.ref = replace(job.ref, draft=None, draft_name=None)
        self._enqueue_if_ready(job)

    def _host_ready(self, host: Host) -> None:
        self._residents_changed = True
        self._fit_kv_budget()
        self._answer_loads()
        for job in self._jobs_of(host.ref.key):
            job.timing.load_s = time.monotonic() - job.timing.received
            self._enqueue_if_ready(job)

    def _enqueue_if_ready(self, job: Job) -> None:
        """Hand the job to the scheduler once its prompt and all its models are there."""
        missing = [key for key in job.ref.needs if key not in self.residents.hosts]
        if job.prepared is None or missing or job.rid in self.scheduler.entries:
            return
        try:
            self.runner.enqueue(self.residents.hosts[job.ref.key], job)
        except MlxdError as error:
            self._fail(job, error)

    def _host_gone(self, host: Host) -> None:
        self._residents_changed = True
        self.prefixes.release(host.fingerprint)
        self._empty_since = time.monotonic()
        self._fit_kv_budget()

    def _fit_kv_budget(self) -> None:
        free = self.residents.budget_bytes - self.residents.weights_bytes()
        self.scheduler.kv_budget_bytes = max(0, free)
        self._make_way(0)

    def _make_way(self, need_bytes: int) -> None:
        """Free remembered prompts until `need_bytes` fit beside weights and running requests."""
        held = self.residents.weights_bytes() + self.scheduler.kv_in_use() + need_bytes
        room = max(0, self.residents.budget_bytes - held)
        if self.prefixes.nbytes > room:
            self.prefixes.trim(room)

    def _housekeeping(self) -> None:
        """See to times that are up and memory that is short, also while there is work."""
        now_s = time.monotonic()
        if now_s >= self._housekeeping_s:
            if self.residents.expire():
                self._residents_changed = True
            if self._kernel_builder is not None and rope_norm.built(self._kernel_builder):
                self._kernel_builder = None
            if now_s >= self._give_back_s:
                memory.give_back()
                self._give_back_s = math.inf
            self._housekeeping_s = now_s + min(IDLE_POLL_S, self.residents.next_expiry_s())

    def _is_empty(self) -> bool:
        """Whether the process holds nothing, so that its end gives all memory back."""
        if self.residents.hosts or self.residents.loading or self.jobs or self._events:
            return False
        waited = time.monotonic() - self._empty_since >= self.options.empty_exit_s
        return self.inbox.empty() and (self.residents.loaded_total > 0 or waited)

    def _requests_of(self, key: str) -> int:
        return sum(1 for _ in self._jobs_of(key))

    def _jobs_of(self, key: str) -> list[Job]:
        """Return the jobs that use a model, be it for its weights or its proposals."""
        return [job for job in self.jobs.values() if key in job.ref.needs]

    # ---- ends

    def _end(self, job: Job, result: dict[str, Any]) -> None:
        self._emit(job.rid, "end", result)
        self.counters["ended"] += 1
        self._forget(job)

    def _fail(self, job: Job, error: MlxdError) -> None:
        self._emit(job.rid, "error", error.to_map())
        self.counters["failed"] += 1
        self._forget(job)

    def _forget(self, job: Job) -> None:
        job.gone = True
        self.jobs.pop(job.rid, None)
        self.runner.forget(job, self.residents.hosts.get(job.ref.key))

    def _lane_failed(self, lane: Lane, exc: Exception) -> None:
        error = as_error(exc)
        if error.code == "internal":
            print("Computing failed:", outline(exc), file=sys.stderr, flush=True)
        host = self.residents.hosts[lane.model]
        rids = [e.job for e in self.scheduler.entries.values() if e.lane == lane]
        host.batches.pop(lane, None)
        for rid in rids:
            self._fail(self.jobs[rid], error)

    def _emit(self, rid: int, kind: str, payload: dict[str, Any]) -> None:
        self._events.append([rid, kind, payload])


def _stopped(job: Job, params: dict[str, Any]) -> MlxdError:
    """Return the error of a job that is stopped, with the usage so far."""
    code = params.get("code", "cancelled")
    text = ENDINGS.get(code, "The request was cancelled.")
    return ERRORS.get(code, Cancelled)(text, data={"usage": job.usage()})


def _patience_s(job: Job, running: int) -> float:
    """Return how long decoding rows of the class `running` wait for the prompt of `job`."""
    return MAKING_S if job.rank < running else BURST_S if job.rank == running else 0.0


def _ignore(_engine: Engine, _params: dict[str, Any]) -> None:
    """Unknown notifications are ignored, as on the public socket."""


NOTIFICATIONS: dict[str, Callable[[Engine, dict[str, Any]], None]] = {
    "submit": Engine._submit,
    "cancel": Engine._cancel,
}
REQUESTS: dict[str, Callable[[Engine, Request], None]] = {
    "load": Engine._load,
    "unload": Engine._unload,
    "ps": rpc.ps,
    "stats": rpc.stats,
    "canary": rpc.canary,
    "tokenize": rpc.tokenize,
    "detokenize": rpc.detokenize,
}
