"""Runs a scheduler output: preempts, starts, decodes and ends sequences, then prefills prompts."""

from __future__ import annotations

import time
from collections.abc import Callable

import mlx.core as mx

from mlxd.daemon.engine.backend.shortages import as_error, not_device_failure
from mlxd.daemon.engine.decoding.batch import DecodeBatch, DecodeSequence, Emitted, Preempted, Start
from mlxd.daemon.engine.decoding.drafts import DraftModels, tokens_since
from mlxd.daemon.engine.decoding.sequences import (
    is_end,
    logprob_entry,
    new_choice,
    new_sequence,
    resumed_sequence,
)
from mlxd.daemon.engine.decoding.speculative import LAG_MAX_TOKENS
from mlxd.daemon.engine.kvcache.prefix_cache import copied
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.prefill.chunks import Prefill
from mlxd.daemon.engine.prefill.manager import PrefillManager
from mlxd.daemon.engine.request import ActiveRequest, Choice
from mlxd.daemon.engine.scheduling.scheduler import Entry, RequestQueue, SchedulerOutput
from mlxd.daemon.stderr import error_summary, report
from mlxd.protocol.errors import OutOfMemory

CLEAR_CACHE_STEPS = 512  # as in mlx-lm: frees buffers of shapes that are no longer used


class Runner:
    """Owns the decoding and the preempted sequences of all requests.

    `prompts` owns the prompts until they are complete. It provides the scheduler, the prefix cache
    and the counters that both use. `find_loaded(key)` returns a loaded model or None.
    """

    def __init__(
        self, prompts: PrefillManager, find_loaded: Callable[[str], LoadedModel | None]
    ) -> None:
        self.prompts = prompts
        self.scheduler = prompts.scheduler
        self.prefixes = prompts.prefixes
        self.counters = prompts.counters
        self.requests = prompts.requests
        self.find_loaded = find_loaded
        self.preempted: dict[int, list[Preempted]] = {}
        self.sequences: dict[int, tuple[ActiveRequest, Choice]] = {}
        self._next_uid = 0
        self._backend = prompts.backend
        self._drafts = DraftModels(find_loaded, prompts.prefixes, prompts.counters)

    def enqueue(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        """Add a request with a tokenized prompt to the scheduler.

        Raises:
            OutOfMemory: its KV cache cannot fit beside the weights.
        """
        assert request.prepared is not None
        kv_bytes = self._limits(loaded, request)
        request.notes += request.prepared.notes
        request.prompt_tokens = len(request.prepared.tokens)
        self.requests.publish(request)
        if reason := loaded.findings.alone:
            request.notes.append(f"served alone: {reason}")
        self.scheduler.add(
            Entry(
                request_id=request.request_id,
                queue=RequestQueue(request.rank, loaded.ref.key),
                conn=request.spec.conn,
                sequences=request.params.n,
                prompt_left=len(request.prepared.tokens) - 1,
                kv_bytes=kv_bytes,
            )
        )
        if len(request.prepared.tokens) == 1:
            self.scheduler.inherit(request.request_id, 0)

    def run(
        self,
        output: SchedulerOutput,
        queue: RequestQueue,
        loaded: LoadedModel,
        requests: dict[int, ActiveRequest],
    ) -> None:
        """Run a scheduler output of `queue`."""
        for request_id in output.preempt:
            self._preempt(loaded, requests[request_id])
        admitted = [requests[request_id] for request_id in output.admit]
        if first := self._admit(loaded, queue, admitted):
            # First tokens are sent before anything else is computed.
            self._take_tokens(loaded, first)
            loaded.tidy()
            return
        if output.decode:
            for batch in list(loaded.batches.get(queue, ())):
                if len(batch):
                    self._decode_or_isolate(loaded, queue, batch)
            loaded.tidy()
        # A request may have ended with the tokens above.
        prefilling = [requests[one] for one in output.prefill if one in requests]
        for request, error in self.prompts.run(loaded, queue, prefilling):
            self._fail(loaded, request, error)

    def forget(self, request: ActiveRequest, loaded: LoadedModel | None) -> None:
        """Free everything of a request that ended, whatever its state."""
        for uid in self._uids_of(request):
            batch = loaded.batch_of(uid) if loaded is not None else None
            if batch is not None:
                batch.remove([uid])
            del self.sequences[uid]
        self.prompts.forget(request)
        self.preempted.pop(request.request_id, None)
        self.scheduler.remove(request.request_id)
        if loaded is not None:
            loaded.last_used_s = time.monotonic()
            loaded.tidy()

    def keep(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        """Cache what was computed for a request that is about to be stopped."""
        self.prompts.keep_partial(loaded, request)
        for uid in self._uids_of(request):
            batch = loaded.batch_of(uid)
            if batch is not None and self.sequences[uid][1].index == 0:
                self._remember(loaded, batch, [uid])

    def _limits(self, loaded: LoadedModel, request: ActiveRequest) -> int:
        """Set `max_tokens` and return the upper bound of the request's KV bytes."""
        assert request.prepared is not None
        prompt_tokens = len(request.prepared.tokens)
        context = loaded.tokenizer.context_tokens
        request.max_tokens = request.params.max_tokens
        if context is not None and prompt_tokens + request.max_tokens > context:
            request.max_tokens = context - prompt_tokens
            request.notes.append(
                f"max_tokens lowered to {request.max_tokens} by the context of {context}"
            )
        need = self._kv_bytes(loaded, request, prompt_tokens + request.max_tokens)
        free = self.scheduler.kv_budget_bytes
        if need > free:
            raise OutOfMemory(
                f"The request may need {need / 1e9:.2f} GB for its KV cache and "
                f"{free / 1e9:.2f} GB are free beside the weights.",
                hint="Lower max_tokens or n, shorten the prompt, or unload other models.",
                data={"need_bytes": need, "free_bytes": int(free)},
            )
        return need

    def _kv_bytes(self, loaded: LoadedModel, request: ActiveRequest, tokens: int) -> int:
        """Return the bytes of KV caches for sequences of so many tokens."""
        draft_ref = request.ref.draft_ref
        draft_model = None if draft_ref is None else self.find_loaded(draft_ref.key)
        draft_bytes = 0 if draft_model is None else draft_model.kv_bytes(tokens)
        return request.params.n * (loaded.kv_bytes(tokens) + draft_bytes)

    # ---- sequences

    def _admit(
        self, loaded: LoadedModel, queue: RequestQueue, requests: list[ActiveRequest]
    ) -> list[Emitted]:
        """Start the requests' sequences in one step, or resume them. Returns first tokens."""
        fresh: list[Start] = []
        for request in requests:
            if preempted := self.preempted.pop(request.request_id, None):
                for one in preempted:
                    loaded.batch_for(queue).resume(one)
            else:
                fresh += self._sequences_of(loaded, request)
        if not fresh:
            return []
        self._backend.before_pass(len(fresh), loaded.widest)
        try:
            if loaded.mergeable:
                return loaded.batch_for(queue).start(fresh)
            return [one for start in fresh for one in loaded.batch_for(queue).start([start])]
        except Exception as exc:
            not_device_failure(exc)
            self._isolate(loaded, queue, [start.sequence.uid for start in fresh], exc)
            return []

    def _sequences_of(self, loaded: LoadedModel, request: ActiveRequest) -> list[Start]:
        """Return the new sequences of a request whose prompt is complete."""
        if request.method == "prefill":
            self.prompts.end(loaded, request)
            return []
        prefill = self.prompts.take(loaded, request)
        request.draft = self._drafts.open(loaded, request)
        request.timing.decode_started = time.monotonic()
        count = request.params.n
        prompts = [prefill] * count if loaded.mergeable else _separate(prefill, count)
        return [
            Start(self._new_sequence(loaded, request, index), prompt)
            for index, prompt in enumerate(prompts)
        ]

    def _new_sequence(
        self, loaded: LoadedModel, request: ActiveRequest, index: int
    ) -> DecodeSequence:
        choice = new_choice(loaded, request, index)
        request.choices.append(choice)
        self._next_uid += 1
        self.sequences[self._next_uid] = (request, choice)
        return new_sequence(loaded, request, choice, self._next_uid)

    def _preempt(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        """Remove the requests' sequences from the batch, with their KV caches and next tokens."""
        preempted = []
        for uid in self._uids_of(request):
            batch = loaded.batch_of(uid)
            assert batch is not None
            preempted.append(batch.preempt(uid))
        self.preempted[request.request_id] = preempted
        self.counters["parked"] += 1
        loaded.tidy()

    def _uids_of(self, request: ActiveRequest) -> list[int]:
        return [uid for uid, (owner, _) in self.sequences.items() if owner is request]

    # ---- failures

    def _decode_or_isolate(
        self, loaded: LoadedModel, queue: RequestQueue, batch: DecodeBatch
    ) -> None:
        """Decode a step. If it fails, each request of the batch continues by itself, or fails."""
        try:
            self._decode(loaded, batch, alone=self.scheduler.decoding_in(queue) == 1)
        except Exception as exc:
            not_device_failure(exc)
            loaded.batches[queue].remove(batch)
            self._isolate(loaded, queue, [one.uid for one in batch.sequences], exc)

    def _isolate(
        self, loaded: LoadedModel, queue: RequestQueue, uids: list[int], exc: Exception
    ) -> None:
        """Restart the requests of sequences that failed together; end those that fail again."""
        uids = [uid for uid in uids if uid in self.sequences]
        requests = {self.sequences[uid][0].request_id: self.sequences[uid][0] for uid in uids}
        for request in requests.values():
            try:
                if len(requests) == 1:
                    raise exc
                self._restart_alone(loaded, queue, self._uids_of(request))
            except Exception as own_exc:
                not_device_failure(own_exc)
                self._fail(loaded, request, own_exc)

    def _restart_alone(self, loaded: LoadedModel, queue: RequestQueue, uids: list[int]) -> None:
        """Compute sequences of a batch that failed again, each in a batch of its own.

        The caches of the batch are of no use: some layers may lack the tokens of the step.
        """
        for uid in uids:
            request, choice = self.sequences[uid]
            assert request.prepared is not None
            if (started := loaded.batch_of(uid)) is not None:
                started.remove([uid])
            tokens = [*request.prepared.tokens, *choice.tokens]
            cache, done = self.prefixes.fetch(loaded.fingerprint, tokens)
            prefill = Prefill(loaded.model, tokens, cache, done)
            while prefill.left:
                prefill.run(loaded.pacer.chunk_tokens(decoding=False))
            batch = DecodeBatch(loaded.model, alone=True)
            loaded.batches.setdefault(queue, []).append(batch)
            sequence = resumed_sequence(loaded, request, choice, uid)
            self._take_tokens(loaded, batch.start([Start(sequence, prefill)]))

    def _fail(self, loaded: LoadedModel, request: ActiveRequest, exc: Exception) -> None:
        """End a request whose computation failed. Others are not affected."""
        error = as_error(exc)
        if error.code == "internal":
            report("Computing failed:", error_summary(exc))
        self.requests.fail(request, error)
        self.forget(request, loaded)

    # ---- tokens

    def _decode(self, loaded: LoadedModel, batch: DecodeBatch, *, alone: bool) -> None:
        """Decode a step of the batch, or several tokens of a single sequence with a draft model."""
        self._backend.before_pass(len(batch), loaded.widest)
        if len(batch) > 1:
            for sequence in batch.sequences:
                self.sequences[sequence.uid][0].batched = True
        request, choice = self.sequences[batch.sequences[0].uid]
        draft = request.draft
        if draft is None or not (alone and draft.worthwhile):
            self._take_tokens(loaded, self._step(loaded, batch))
            return
        behind = tokens_since(request, choice, draft.done)
        if len(behind) > LAG_MAX_TOKENS:
            draft.catch_up(behind[: loaded.pacer.chunk_tokens(decoding=True)])
            self._take_tokens(loaded, batch.step())
            return
        most = request.max_tokens - len(choice.tokens) - 1
        self._take_tokens(
            loaded, batch.speculate(draft, behind, most) if most > 0 else batch.step()
        )

    def _step(self, loaded: LoadedModel, batch: DecodeBatch) -> list[Emitted]:
        """Decode one token of each sequence."""
        started = time.monotonic()
        if not self._backend.overlap(loaded.pacer.step_s):
            emitted, whole = batch.step_alone(), True
        else:
            last = all(self._is_last(sequence) for sequence in batch.sequences)
            emitted, whole = batch.step(last=last), not last
        if whole:
            loaded.pacer.observe_step(time.monotonic() - started)
        return emitted

    def _is_last(self, sequence: DecodeSequence) -> bool:
        """Return whether the sequence's next token reaches `max_tokens`."""
        request, choice = self.sequences[sequence.uid]
        return not sequence.emitted_ahead and len(choice.tokens) + 1 >= request.max_tokens

    def _take_tokens(self, loaded: LoadedModel, emitted: list[Emitted]) -> None:
        """Send tokens to their requests, in order. Tokens after a sequence's end are dropped."""
        now = time.monotonic()
        self.counters["decode_steps"] += 1
        if self.counters["decode_steps"] % CLEAR_CACHE_STEPS == 0:
            mx.clear_cache()
        ended = []
        for index, one in enumerate(emitted):
            found = self.sequences.get(one.uid)
            if found is None or one.uid in ended:
                continue
            request, choice = found
            if not request.timing.first_token:
                request.timing.first_token = now
            self.counters["completion_tokens"] += 1
            try:
                ends = self._take_token(loaded, request, choice, one)
            except Exception as exc:  # of a parser or a constraint: this request's alone
                not_device_failure(exc)
                self._fail(loaded, request, exc)
                continue
            if ends:
                surplus = sum(other.uid == one.uid for other in emitted[index + 1 :])
                ended.append(one.uid)
                if surplus and (batch := loaded.batch_of(one.uid)) is not None:
                    batch.rewind(surplus)
        if ended:
            self._sequences_ended(loaded, ended)

    def _take_token(
        self, loaded: LoadedModel, request: ActiveRequest, choice: Choice, one: Emitted
    ) -> bool:
        """Send one token to its request. Return whether it is the sequence's last."""
        ends = is_end(loaded, request, one.token)
        events = choice.accept(one.token, ends=ends)
        if one.logprob is not None:
            choice.logprobs.append(logprob_entry(loaded, one))
            if events:
                events[-1][1]["logprobs"] = choice.new_logprobs()
        self.requests.publish(request)
        self.scheduler.decoded(request.request_id, 1)
        reason = None
        if ends or choice.splitter.stopped:
            reason = "stop"
        elif len(choice.tokens) >= request.max_tokens:
            reason = "length"
        if reason is not None:
            events += choice.finish(reason)
        for kind, payload in events:
            self.requests.emit(request, kind, payload)
        return reason is not None

    def _sequences_ended(self, loaded: LoadedModel, uids: list[int]) -> None:
        """Remove sequences from their batches together, and end requests that have no others."""
        for batch in [one for batches in loaded.batches.values() for one in batches]:
            ended = [uid for uid in uids if batch.holds(uid)]
            if ended:
                self._remember(loaded, batch, ended)
                batch.remove(ended)
        sequences = [self.sequences.pop(uid) for uid in uids]
        for request, choice in sequences:
            if not all(other.finish_reason for other in request.choices):
                self.scheduler.sequence_ended(request.request_id)
            elif request.request_id in self.scheduler.entries:
                self._drafts.end(request, choice)
                self.requests.end(request, request.result())
                self.forget(request, loaded)

    def _remember(self, loaded: LoadedModel, batch: DecodeBatch, uids: list[int]) -> None:
        """Queue the caches of the requests' first choices for the prefix cache.

        They are stored after the requests' results are sent, so that callers need not wait.
        """
        first = [uid for uid in uids if self.sequences[uid][1].index == 0]
        for uid, cache in zip(first, batch.caches_of(first), strict=True):
            request, choice = self.sequences[uid]
            assert request.prepared is not None
            tokens = [*request.prepared.tokens, *choice.tokens]
            known = tokens[: len(tokens) - batch.lag(uid)]
            self.prefixes.store_later(loaded.fingerprint, known, cache)


def _separate(prefill: Prefill, count: int) -> list[Prefill]:
    """Return one prompt for each sequence, each with its own cache, for caches that cannot be
    merged."""
    copies = [
        Prefill(prefill.model, prefill.tokens, copied(prefill.cache, done, done), done)
        for done in [prefill.done] * (count - 1)
    ]
    return [prefill, *copies]
