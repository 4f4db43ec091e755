"""Turns a request's parameters into sequences of a decoding batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer

from mlxd.daemon.engine.constraints.compiler import Guide
from mlxd.daemon.engine.decoding.batch import DecodeSequence, Emitted
from mlxd.daemon.engine.decoding.sampling import SequenceSampling, choice_seed
from mlxd.daemon.engine.decoding.speculative import can_rewind
from mlxd.daemon.engine.generation import SamplingParams
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.request import ActiveRequest, Choice, markers_of
from mlxd.daemon.engine.tokenization.text import Channel, Markers, TextSplitter


def new_choice(loaded: LoadedModel, request: ActiveRequest, index: int) -> Choice:
    """Return an empty choice with the model's markers and the request's stop texts."""
    assert request.prepared is not None
    wrapper = loaded.tokenizer.wrapper
    # Only chats have reasoning and tool calls. Other text is passed on unchanged.
    markers = markers_of(wrapper) if request.method == "chat" else Markers()
    channel = Channel.REASONING if request.prepared.reasoning else Channel.ANSWER
    literal = request.prepared.constraint is not None and not request.params.tools.forced
    if request.params.tools.choice == "none":
        markers = replace(markers, tool_start="", tool_end="")
    if literal and channel is Channel.ANSWER and not request.params.thinking:
        markers = Markers()
    return Choice(
        index=index,
        splitter=TextSplitter(markers, request.params.stop, channel, literal=literal),
        detokenizer=_detokenizer(loaded, trims=request.method == "chat"),
        tool_parser=wrapper.tool_parser,
        tools=list(request.params.tools.tools or ()) or None,
    )


def _detokenizer(loaded: LoadedModel, *, trims: bool) -> Any:
    """Return a detokenizer. mlx-lm's detokenizers drop a space before the first word.

    If `trims` is False it keeps the space, which continued text and filled gaps need.
    """
    detokenizer = loaded.tokenizer.detokenizer()
    if not trims and isinstance(detokenizer, (BPEStreamingDetokenizer, SPMStreamingDetokenizer)):
        # They drop the space only while their text is empty. One character counts as already
        # returned.
        detokenizer.text, detokenizer.offset = " ", 1
    return detokenizer


def new_sequence(
    loaded: LoadedModel, request: ActiveRequest, choice: Choice, uid: int
) -> DecodeSequence:
    """Return the sequence that decodes `choice`."""
    assert request.prepared is not None
    params, prepared = request.params, request.prepared
    processors = logits_processors(params.sampling)
    context_size = params.sampling.repetition_context_size
    seen = prepared.tokens[:-1][-context_size:]
    wrapper = loaded.tokenizer.wrapper
    choice.guide = _guide(request, choice, wrapper)
    return DecodeSequence(
        uid=uid,
        sampling=sequence_sampling(
            params.sampling, choice_seed(request.spec.seed, choice.index), wrapper
        ),
        processors=processors,
        context=mx.array(seen, dtype=mx.uint32) if processors and seen else None,
        context_size=context_size,
        constraint=choice.guide,
        logprobs=params.logprobs,
    )


def resumed_sequence(
    loaded: LoadedModel, request: ActiveRequest, choice: Choice, uid: int
) -> DecodeSequence:
    """Return the sequence that continues `choice` after the tokens that it has."""
    sequence = new_sequence(loaded, request, choice, uid)
    if not choice.tokens or request.prepared is None:
        return sequence
    known = [*request.prepared.tokens, *choice.tokens]
    sequence.steps = len(choice.tokens)
    if sequence.processors:
        sequence.context = mx.array(known[:-1][-sequence.context_size :], dtype=mx.uint32)
    if sequence.constraint is not None:
        for token in known[-len(choice.tokens) - 1 : -1]:
            sequence.constraint.next_mask(token)
    return sequence


def draft_problem(
    loaded: LoadedModel, draft_model: LoadedModel | None, request: ActiveRequest
) -> str:
    """Return the reason why `draft_model` cannot propose tokens for this request, or ""."""
    params, prepared = request.params, request.prepared
    if draft_model is None:
        return "it is not in memory"
    if prepared is not None and prepared.constraint is not None:
        return "a constrained answer is decoded token by token"
    if params.n > 1 or params.logprobs >= 0 or logits_processors(params.sampling):
        return "several answers, log-probabilities and penalties are decoded token by token"
    if not (can_rewind(loaded.model) and can_rewind(draft_model.model)):
        return "the cache of one of the models cannot be rewound"
    if draft_model.tokenizer.vocabulary != loaded.tokenizer.vocabulary:
        return "it has another vocabulary"
    if prepared is not None and max(prepared.tokens) >= draft_model.tokenizer.model_tokens:
        return "its vocabulary lacks a token of the prompt"
    return ""


def _guide(request: ActiveRequest, choice: Choice, wrapper: Any) -> Guide | None:
    """Return the guide that constrains the answer after its reasoning, or None."""
    assert request.prepared is not None
    if request.prepared.constraint is None:
        return None
    state = request.prepared.constraint.start()
    if request.prepared.reasoning:
        return Guide(state, think_end=tuple(wrapper.think_end_tokens))
    if request.method == "chat" and request.params.thinking and wrapper.has_thinking:
        # The chat template lets the model decide whether it starts its reasoning.
        opens = tuple(wrapper.think_start_tokens)
        if len(opens) == 1:
            after = tuple(wrapper.think_end_tokens)
            return Guide(state, may_think=opens[0], think_end_after=after)
        choice.notes.append("the answer follows the constraint at once, without reasoning")
    return Guide(state)


def is_end(loaded: LoadedModel, request: ActiveRequest, token: int) -> bool:
    """Return whether `token` ends the answer. With a constraint, `ignore_eos` has no effect."""
    assert request.prepared is not None
    if request.params.ignore_eos and request.prepared.constraint is None:
        return False
    return token in loaded.tokenizer.wrapper.eos_token_ids or token in request.prepared.extra_eos


def logprob_entry(loaded: LoadedModel, one: Emitted) -> dict[str, Any]:
    """Return the token with its log-probability (natural logarithm) and the alternatives."""
    decode = loaded.tokenizer.wrapper.decode
    return {
        "token": one.token,
        "text": decode([one.token]),
        "logprob": one.logprob,
        "top": [
            {"token": token, "text": decode([token]), "logprob": value} for token, value in one.top
        ],
    }


def sequence_sampling(params: SamplingParams, seed: int, wrapper: Any) -> SequenceSampling:
    """Return the sampling of one sequence. `wrapper` is mlx-lm's tokenizer wrapper."""
    exempt: tuple[int, ...] = ()
    if params.xtc_probability > 0:
        newline = wrapper.encode("\n", add_special_tokens=False)
        exempt = tuple({*newline[-1:], *wrapper.eos_token_ids})
    return SequenceSampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        min_tokens_to_keep=params.min_tokens_to_keep,
        xtc_probability=params.xtc_probability,
        xtc_threshold=params.xtc_threshold,
        xtc_exempt=exempt,
        seed=seed,
    )


def logits_processors(params: SamplingParams) -> tuple[Any, ...]:
    """Return mlx-lm's processors for bias and penalties; none where the defaults apply."""
    size = params.repetition_context_size
    penalty = params.repetition_penalty
    return tuple(
        make_logits_processors(
            logit_bias=dict(params.logit_bias) if params.logit_bias else None,
            repetition_penalty=penalty if penalty != 1.0 else None,
            repetition_context_size=size,
            presence_penalty=params.presence_penalty or None,
            presence_context_size=size,
            frequency_penalty=params.frequency_penalty or None,
            frequency_context_size=size,
        )
    )
