"""Sequences of one model that are decoded together.

Uses mlx-lm's caches (`merge`, `extend`, `filter`, `extract`) with its own decoding step instead of
`mlx_lm.generate.BatchGenerator`. `docs/decisions/001-own-decode-step.md` explains why.

One step is computed ahead: while the caller handles the tokens of one step, MLX computes the next.
A sequence's first token does not wait for that step: `start` returns it as soon as it is computed.
On the CPU, long steps are not computed ahead. There MLX computes on the thread that submits the
step, so finished tokens would wait for most of the next step, and a new request for one more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import trim_prompt_cache

from mlxd.daemon.engine.decoding.sampling import BatchSampler, SequenceSampling, describe_logprobs
from mlxd.daemon.engine.decoding.speculative import Draft, verify
from mlxd.daemon.engine.kvcache.ops import Cache, keep_rows, merge, rows_of, share_offsets
from mlxd.daemon.engine.prefill.chunks import Prefill, joined

if TYPE_CHECKING:
    from mlxd.daemon.engine.constraints.compiler import Guide

Processor = Callable[[mx.array, mx.array], mx.array]
"""Maps token ids (n,) and logits (1, vocabulary) to logits, as in `mlx_lm.sample_utils`."""


@dataclass(slots=True)
class DecodeSequence:
    """One sequence that is being decoded."""

    uid: int
    sampling: SequenceSampling
    processors: tuple[Processor, ...] = ()
    context: mx.array | None = None
    context_size: int = 0
    constraint: Guide | None = None
    logprobs: int = -1
    steps: int = 0
    emitted_ahead: bool = False
    """Whether the pending token was already emitted, as a sequence's first token is."""

    def allowed(self, token: int, width: int) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Advance the constraint by the token that is fed now. Return the next mask, or None."""
        assert self.constraint is not None
        mask = self.constraint.next_mask(token)
        return None if mask is None else mask[:width]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One token of one sequence. `top` holds (token, log-probability) pairs, most likely first."""

    uid: int
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Preempted:
    """Everything that a sequence needs to resume, including its pending token."""

    sequence: DecodeSequence
    cache: Cache
    next_token: mx.array
    next_info: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Start:
    """A new sequence. Its prompt is computed except for the last token, which is fed first."""

    sequence: DecodeSequence
    prompt: Prefill


class DecodeBatch:
    """Sequences that decode together. `start` emits their first tokens, `step` one more of each."""

    def __init__(self, model: Any, *, alone: bool = False) -> None:
        """`alone`: no other sequence may join, since it failed together with others."""
        self.model = model
        self.alone = alone
        self.sequences: list[DecodeSequence] = []
        self._cache: Cache = []
        self._batched = False
        self._next: mx.array | None = None
        self._info: tuple[Any, ...] | None = None
        self._sampler = BatchSampler([])
        self._fed = True

    def __len__(self) -> int:
        return len(self.sequences)

    def holds(self, uid: int) -> bool:
        """Return whether the sequence `uid` is in this batch."""
        return any(sequence.uid == uid for sequence in self.sequences)

    def start(self, starts: Sequence[Start]) -> list[Emitted]:
        """Add sequences and return their first tokens. The batch owns the caches afterwards."""
        fresh = DecodeBatch(self.model)
        fresh.sequences = [one.sequence for one in starts]
        fresh._batched = len(starts) > 1
        fresh._cache = joined([one.prompt for one in starts])
        fresh._next = mx.array([one.prompt.tokens[-1] for one in starts], dtype=mx.uint32)
        fresh._sequences_changed()
        fresh._launch()
        first = fresh._emitted(cast(list[int], fresh._next.tolist()), fresh._info)
        for sequence in fresh.sequences:
            sequence.emitted_ahead = True
        self._join(fresh)
        return first

    def resume(self, preempted: Preempted) -> None:
        """Add a preempted sequence. It continues with its pending token."""
        back = DecodeBatch(self.model)
        back.sequences = [preempted.sequence]
        back._cache = preempted.cache
        back._next, back._info = preempted.next_token, preempted.next_info
        self._join(back)

    def step(self, *, last: bool = False) -> list[Emitted]:
        """Start computing the next tokens, then return the current ones, one per sequence.

        Sequences that have just started are left out, because `start` returned their current token.
        `last`: every sequence ends with this token, so no further step is computed.
        """
        current, info = self._next, self._info
        self._fed = not last
        if self._fed:
            self._launch()
        assert current is not None
        emitted = self._emitted(cast(list[int], current.tolist()), info)
        fresh = [sequence.uid for sequence in self.sequences if sequence.emitted_ahead]
        if fresh:
            emitted = [one for one in emitted if one.uid not in fresh]
            for sequence in self.sequences:
                sequence.emitted_ahead = False
        return emitted

    def step_alone(self) -> list[Emitted]:
        """Return the next tokens, one per sequence, without computing a step ahead.

        If an earlier step ran ahead, return only the tokens that it computed.
        """
        due = [sequence for sequence in self.sequences if not sequence.emitted_ahead]
        if not due:
            self._launch()
            due = self.sequences
        assert self._next is not None
        emitted = self._emitted(cast(list[int], self._next.tolist()), self._info)
        uids = {sequence.uid for sequence in due}
        for sequence in self.sequences:
            sequence.emitted_ahead = True
        return [one for one in emitted if one.uid in uids]

    def settle(self) -> None:
        """Wait for the step that is being computed ahead."""
        if self._next is not None:
            mx.eval(self._next)

    def speculate(self, draft: Draft, behind: list[int], most: int) -> list[Emitted]:
        """Emit a token of the only sequence, and the accepted ones of up to `most` proposals.

        `behind` are the emitted tokens that the draft model has not processed yet.
        """
        assert len(self.sequences) == 1
        assert self._next is not None
        sequence, count = self.sequences[0], min(draft.width, most)
        known, sequence.emitted_ahead = int(sequence.emitted_ahead), False
        behind = behind[: len(behind) - known]
        cache = self._single_cache()
        proposals = draft.propose(behind, self._next, count, sequence.sampling, sequence.steps)
        emitted, accepted, self._next = verify(
            self.model, cache, self._next, proposals, sequence.sampling, sequence.steps
        )
        sequence.steps += accepted + 1
        draft.settle(count, accepted)
        return [Emitted(sequence.uid, token) for token in emitted[known:]]

    def lag(self, uid: int) -> int:
        """Return the number of emitted tokens of a sequence that are not in its cache yet."""
        return int(self.sequences[self._index(uid)].emitted_ahead or not self._fed)

    def rewind(self, tokens: int) -> None:
        """Remove the last tokens of the only sequence from its cache."""
        trim_prompt_cache(self._single_cache(), tokens)

    def _single_cache(self) -> Cache:
        if self._batched:
            self._cache = rows_of(self._cache, [0])[0]
            self._batched = False
        return self._cache

    def caches_of(self, uids: Sequence[int]) -> list[Cache]:
        """Return the sequences' caches, which cover prompt and emitted tokens except for `lag`.

        They are copies of the exact size. A batch of one sequence returns the cache itself.
        """
        if not self._batched:
            return [self._cache for _ in uids]
        return rows_of(self._cache, [self._index(uid) for uid in uids])

    def preempt(self, uid: int) -> Preempted:
        """Remove a sequence and return it for `resume`."""
        index = self._index(uid)
        assert self._next is not None
        preempted = Preempted(
            sequence=self.sequences[index],
            cache=self.caches_of([uid])[0],
            next_token=self._next[index : index + 1],
            next_info=_pick(self._info, [index]),
        )
        mx.eval(preempted.next_token, [layer.state for layer in preempted.cache])
        self.remove([uid])
        return preempted

    def remove(self, uids: Iterable[int]) -> None:
        """Remove sequences that ended."""
        removed = set(uids)
        keep = [
            index for index, sequence in enumerate(self.sequences) if sequence.uid not in removed
        ]
        if len(keep) == len(self.sequences):
            return
        self.sequences = [self.sequences[index] for index in keep]
        if not keep:
            self._cache, self._next, self._info, self._batched = [], None, None, False
        else:
            self._filter(keep)
        self._sequences_changed()

    def _filter(self, keep: list[int]) -> None:
        assert self._next is not None
        picked = mx.array(keep)
        self._next = self._next[picked]
        self._info = _pick(self._info, keep)
        if len(keep) == 1:
            # A single sequence decodes faster without the masks that a batch needs.
            self._cache = rows_of(self._cache, keep)[0]
            self._batched = False
            return
        keep_rows(self._cache, keep)

    def _join(self, other: DecodeBatch) -> None:
        if not self.sequences:
            self._cache, self._batched = other._cache, other._batched
            self._next, self._info = other._next, other._info
        else:
            self._become_batched()
            other._become_batched()
            for mine, theirs in zip(self._cache, other._cache, strict=True):
                mine.extend(theirs)
            assert self._next is not None
            assert other._next is not None
            self._next = mx.concatenate([self._next, other._next])
            self._info = _concatenate(
                self._info, other._info, len(self.sequences), len(other.sequences)
            )
        self.sequences = self.sequences + other.sequences
        self._sequences_changed()

    def _become_batched(self) -> None:
        if not self._batched:
            self._cache = merge([self._cache])
            self._batched = True

    def _sequences_changed(self) -> None:
        self._sampler = BatchSampler([sequence.sampling for sequence in self.sequences])
        self._penalised = any(sequence.processors for sequence in self.sequences)
        self._constrained = any(sequence.constraint is not None for sequence in self.sequences)
        self._alternatives = max((sequence.logprobs for sequence in self.sequences), default=-1)

    def _launch(self) -> None:
        """Feed the pending tokens, and start to compute the tokens after them."""
        assert self._next is not None, "a step needs sequences"
        inputs = self._next
        if self._batched:
            share_offsets(self._cache)
        logits = self.model(inputs[:, None], cache=self._cache)[:, -1, :]
        if self._penalised:
            logits = self._apply_processors(logits, inputs)
        if self._constrained:
            logits = self._apply_constraints(logits, inputs)
        logprobs = logits
        if self._alternatives >= 0 or not self._sampler.greedy:
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sampled = self._sampler(logprobs, [sequence.steps for sequence in self.sequences])
        info: tuple[Any, ...] | None = None
        if self._alternatives >= 0:
            info = describe_logprobs(logprobs, sampled, self._alternatives)
        mx.async_eval(sampled, *(array for array in info or () if array is not None))
        for sequence in self.sequences:
            sequence.steps += 1
        self._next, self._info = sampled, info

    def _apply_processors(self, logits: mx.array, inputs: mx.array) -> mx.array:
        done = []
        for index, sequence in enumerate(self.sequences):
            row_logits = logits[index : index + 1]
            if sequence.processors:
                known = [] if sequence.context is None else [sequence.context]
                fed = inputs[index : index + 1].astype(mx.uint32)
                sequence.context = mx.concatenate([*known, fed])[-sequence.context_size :]
                for processor in sequence.processors:
                    row_logits = processor(sequence.context, row_logits)
            done.append(row_logits)
        return mx.concatenate(done, axis=0)

    def _apply_constraints(self, logits: mx.array, inputs: mx.array) -> mx.array:
        # The forward pass runs while the masks are built from the tokens that it processes.
        mx.async_eval(logits)
        tokens = cast(list[int], inputs.tolist())
        width = logits.shape[-1]
        allowed = np.ones((len(self.sequences), width), dtype=np.bool_)
        for index, sequence in enumerate(self.sequences):
            if sequence.constraint is None:
                continue
            mask = sequence.allowed(tokens[index], width)
            if mask is not None:
                allowed[index, : len(mask)] = mask
                allowed[index, len(mask) :] = False
        return mx.where(mx.array(allowed), logits, -mx.inf)

    def _emitted(self, tokens: list[int], info: tuple[Any, ...] | None) -> list[Emitted]:
        if info is None:
            return [
                Emitted(sequence.uid, token)
                for sequence, token in zip(self.sequences, tokens, strict=True)
            ]
        chosen = info[0].tolist()
        ids = info[1].tolist() if info[1] is not None else [[]] * len(tokens)
        values = info[2].tolist() if info[2] is not None else [[]] * len(tokens)
        return [
            Emitted(
                sequence.uid,
                tokens[index],
                chosen[index] if sequence.logprobs >= 0 else None,
                tuple(zip(ids[index], values[index], strict=True))[: max(sequence.logprobs, 0)],
            )
            for index, sequence in enumerate(self.sequences)
        ]

    def _index(self, uid: int) -> int:
        return next(index for index, sequence in enumerate(self.sequences) if sequence.uid == uid)


def _pick(info: tuple[Any, ...] | None, keep: list[int]) -> tuple[Any, ...] | None:
    if info is None:
        return None
    picked = mx.array(keep)
    return tuple(None if array is None else array[picked] for array in info)


def _concatenate(
    mine: tuple[Any, ...] | None, theirs: tuple[Any, ...] | None, rows: int, new_rows: int
) -> tuple[Any, ...] | None:
    """Join the histories of two batches. The shorter one is padded."""
    if mine is None and theirs is None:
        return None
    width = max(_alternatives(mine), _alternatives(theirs))
    first, second = _widen(mine, rows, width), _widen(theirs, new_rows, width)
    return tuple(
        None if a is None else mx.concatenate([a, b]) for a, b in zip(first, second, strict=True)
    )


def _alternatives(info: tuple[Any, ...] | None) -> int:
    return 0 if info is None or info[1] is None else int(info[1].shape[1])


def _widen(info: tuple[Any, ...] | None, rows: int, width: int) -> tuple[Any, ...]:
    chosen = mx.zeros((rows,)) if info is None else info[0]
    if not width:
        return (chosen, None, None)
    have = _alternatives(info)
    blank = width - have
    ids = mx.zeros((rows, blank), dtype=mx.uint32)
    values = mx.full((rows, blank), -mx.inf)
    if info is not None and info[1] is not None:
        ids = mx.concatenate([info[1].astype(mx.uint32), ids], axis=1)
        values = mx.concatenate([info[2], values], axis=1)
    return (chosen, ids, values)
