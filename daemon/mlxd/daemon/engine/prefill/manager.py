"""Computes the prompts of all requests until they decode, and stores them in the prefix cache."""

from __future__ import annotations

import time

from mlxd.daemon.engine.backend.base import Backend
from mlxd.daemon.engine.backend.shortages import not_device_failure
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.prefill.chunks import Prefill, run_together
from mlxd.daemon.engine.request import ActiveRequest
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.scheduler import RequestQueue, Scheduler

TOGETHER_MAX_TOKENS = 512
"""Prompts up to this length share a forward pass. Longer ones use the whole device by
themselves."""
BLOCK_TOKENS = 512
"""Caches that cannot be trimmed are stored after so many tokens of a prompt, and after two, four
and so on times as many: a prompt with the same beginning finds at least half of it."""
TOGETHER_CHUNKS = 2
"""Length of a shared pass in chunks while nothing decodes. In separate passes, the last prompt
would wait longer."""

TOO_LARGE_TO_KEEP = (
    "this prompt is too large for the prefix cache: raise prefix_cache_memory_bytes to keep it"
)


Failure = tuple[ActiveRequest, Exception]


class PrefillManager:
    """Owns the incomplete prompts, and ends requests of the method `prefill`."""

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

    def take(self, loaded: LoadedModel, request: ActiveRequest) -> Prefill:
        """Return a complete prompt and remove it here. Its request decodes from now on."""
        prefill = self.of(loaded, request)
        del self._prefills[request.request_id]
        return prefill

    def forget(self, request: ActiveRequest) -> None:
        """Forget the prompt of a request that ended."""
        self._prefills.pop(request.request_id, None)

    def keep_partial(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        """Store the computed part of a prompt, for the request that replaces this one."""
        prefill = self._prefills.get(request.request_id)
        if prefill is not None and prefill.done > 0:
            done = prefill.tokens[: prefill.done]
            self.prefixes.store(loaded.fingerprint, done, prefill.cache, durable=False)

    def run(
        self, loaded: LoadedModel, queue: RequestQueue, requests: list[ActiveRequest]
    ) -> list[Failure]:
        """Compute a chunk of the first prompt, or several short prompts in a chunk's time.

        Returns the requests whose prompts could not be computed. End them.
        """
        failures: list[Failure] = []
        waits = self.scheduler.decoding_in(queue) > 0
        used = 0
        while requests:
            # Starting a prompt may read a file, so none is started after the chunk's time is used.
            first = (
                self._prefills.get(requests[0].request_id) if used else self.of(loaded, requests[0])
            )
            behind = 0 if first is None else first.done
            left = loaded.pacer.chunk_tokens(decoding=waits, behind=behind) - used
            if used and left <= 0:
                break
            parts = self._next_parts(
                loaded, requests, max(left, 1), 1 if waits else TOGETHER_CHUNKS
            )
            requests = requests[len(parts) :]
            # From now on a complete prompt waits for the others, as a decoding request does.
            try:
                waits = self._compute(loaded, parts) or waits
            except Exception as exc:
                not_device_failure(exc)
                failures += self._isolate(loaded, parts, exc)
            used += sum(count for _, count in parts)
        return failures

    def _isolate(
        self, loaded: LoadedModel, parts: list[tuple[ActiveRequest, int]], exc: Exception
    ) -> list[Failure]:
        """Compute prompts that failed in one pass one by one. Returns those that fail again."""
        if len(parts) == 1:
            return [(parts[0][0], exc)]
        failures: list[Failure] = []
        for part in parts:
            try:
                self._compute(loaded, [part])
            except Exception as own_exc:
                not_device_failure(own_exc)
                failures.append((part[0], own_exc))
        return failures

    def _next_parts(
        self, loaded: LoadedModel, requests: list[ActiveRequest], tokens: int, chunks: int
    ) -> list[tuple[ActiveRequest, int]]:
        """Return the next prompts with their token counts: one chunk, or several short prompts.

        Short prompts share a pass of up to `chunks * tokens` tokens, padding included.
        """
        first = self.of(loaded, requests[0])
        longest = min(tokens, first.left, self._to_next_cut(loaded, requests[0]))
        parts = [(requests[0], longest)]
        if longest < first.left or not (loaded.mergeable and _shares(first)):
            return parts
        for request in requests[1:]:
            prefill = self.of(loaded, request)
            longest = max(longest, prefill.left)
            if (len(parts) + 1) * longest > chunks * tokens or not _shares(prefill):
                break
            parts.append((request, prefill.left))
        return parts

    def _compute(self, loaded: LoadedModel, parts: list[tuple[ActiveRequest, int]]) -> bool:
        """Compute the given number of tokens of each prompt. Return whether any is complete."""
        total = sum(count for _, count in parts)
        for batches in loaded.batches.values():
            for batch in batches:
                batch.settle()  # otherwise the time of its step would count as prefill
        self.backend.before_pass(total, loaded.widest)
        behind = self.of(loaded, parts[0][0]).done
        started = time.monotonic()
        if len(parts) == 1:
            self.of(loaded, parts[0][0]).run(total)
        elif total:
            run_together(loaded.model, [(self.of(loaded, request), n) for request, n in parts])
        loaded.pacer.observe(total, time.monotonic() - started, behind)
        if total:
            self.backend.after_prefill()
        if len(parts) > 1:
            for request, _ in parts:
                request.batched = True
        complete = [self._computed(loaded, request, count) for request, count in parts]
        return any(complete)

    def _computed(self, loaded: LoadedModel, request: ActiveRequest, count: int) -> bool:
        prefill = self.of(loaded, request)
        if count:
            self.counters["prompt_tokens_computed"] += count
            self.scheduler.prefilled(request.request_id, count)
            self.requests.emit(
                request, "prefill", {"done": prefill.done + 1, "total": request.prompt_tokens}
            )
            self.requests.publish(request)
            self._snapshot_at_cut(loaded, request)
        complete = prefill.left <= 0
        if complete and request.method == "prefill":
            self.end(loaded, request)
        return complete

    def of(self, loaded: LoadedModel, request: ActiveRequest) -> Prefill:
        """Return a request's prompt with its progress. A new one starts from the prefix cache."""
        return self._prefills.get(request.request_id) or self._begin(loaded, request)

    def _begin(self, loaded: LoadedModel, request: ActiveRequest) -> Prefill:
        assert request.prepared is not None
        tokens = request.prepared.tokens
        request.timing.prefill_started = time.monotonic()
        cache, done = self.prefixes.fetch(loaded.fingerprint, tokens, loaded.model)
        request.cached_tokens = done
        self.counters["prompt_tokens"] += len(tokens)
        self.counters["prompt_tokens_cached"] += done
        prefill = Prefill(loaded.model, tokens, cache, done)
        self._prefills[request.request_id] = prefill
        if not self.prefixes.has_room_for(loaded.kv_bytes(len(tokens))):
            request.notes.append(TOO_LARGE_TO_KEEP)
        if done:
            self.scheduler.inherit(request.request_id, done)
        return prefill

    def _to_next_cut(self, loaded: LoadedModel, request: ActiveRequest) -> int:
        """Return the tokens until the next snapshot. Caches that can be trimmed need none."""
        assert request.prepared is not None
        done = self._prefills[request.request_id].done
        if loaded.trimmable:
            return len(request.prepared.tokens)
        block = BLOCK_TOKENS
        while block <= done:
            block *= 2
        return min([cut for cut in request.prepared.cuts if cut > done] + [block]) - done

    def _snapshot_at_cut(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        assert request.prepared is not None
        prefill = self._prefills[request.request_id]
        at_end = prefill.left == 0
        at_turn = prefill.done in request.prepared.cuts
        if loaded.trimmable or not (at_turn or at_end or _is_block(prefill.done)):
            return
        tokens = request.prepared.tokens[: prefill.done]
        self.prefixes.store(
            loaded.fingerprint, tokens, prefill.cache, durable=at_turn and not at_end
        )

    def end(self, loaded: LoadedModel, request: ActiveRequest) -> None:
        """Store the prompt of a request of the method `prefill`, and end the request."""
        prefill = self._prefills.pop(request.request_id)
        done = prefill.tokens[: prefill.done]
        self.prefixes.store(loaded.fingerprint, done, prefill.cache, durable=True)
        request.timing.decode_started = time.monotonic()
        result = {key: request.result()[key] for key in ("usage", "timing", "applied")}
        self.requests.end(request, result)
        self.scheduler.remove(request.request_id)
        loaded.last_used_s = time.monotonic()
        loaded.tidy()


def _is_block(tokens: int) -> bool:
    blocks, rest = divmod(tokens, BLOCK_TOKENS)
    return not rest and blocks.bit_count() == 1


def _shares(prompt: Prefill) -> bool:
    """Return whether a prompt may share a forward pass with others."""
    return prompt.joins and len(prompt.tokens) <= TOGETHER_MAX_TOKENS
