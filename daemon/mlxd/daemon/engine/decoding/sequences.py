"""What a request's parameters become on the way to a decoding batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer

from mlxd.daemon.engine.constraints.compiler import Guide
from mlxd.daemon.engine.decoding.batch import Emitted, Row
from mlxd.daemon.engine.decoding.sampling import SamplingParams, choice_seed
from mlxd.daemon.engine.decoding.speculative import can_rewind
from mlxd.daemon.engine.generation import GenerationParams
from mlxd.daemon.engine.models.loader import Host
from mlxd.daemon.engine.request import Choice, Job, markers_of
from mlxd.daemon.engine.tokenization.text import Channel, Markers, TextSplitter


def new_choice(host: Host, job: Job, index: int) -> Choice:
    """Return an empty answer that knows the model's markers and the request's stop texts."""
    assert job.prepared is not None
    wrapper = host.tokenizer.wrapper
    # Raw continuations are handed through as they are; only chats have reasoning and tools.
    markers = markers_of(wrapper) if job.method == "chat" else Markers()
    channel = Channel.REASONING if job.prepared.reasoning else Channel.ANSWER
    literal = job.prepared.constraint is not None and not job.generation.forced_tool
    if job.generation.tool_choice == "none":
        markers = replace(markers, tool_start="", tool_end="")
    if literal and channel is Channel.ANSWER and not job.generation.thinking:
        markers = Markers()
    return Choice(
        index=index,
        splitter=TextSplitter(markers, job.generation.stop, channel, literal=literal),
        detokenizer=_detokenizer(host, trims=job.method == "chat"),
        tool_parser=wrapper.tool_parser,
        tools=job.generation.tools,
    )


def _detokenizer(host: Host, *, trims: bool) -> Any:
    """Return a detokenizer. mlx-lm's leave out a space before the first word.

    That is right for an answer, and wrong for a text that is continued or a gap that is filled.
    """
    detokenizer = host.tokenizer.detokenizer()
    if not trims and isinstance(detokenizer, (BPEStreamingDetokenizer, SPMStreamingDetokenizer)):
        # They trim while there is no text; this is text that has been given out already.
        detokenizer.text, detokenizer.offset = " ", 1
    return detokenizer


def new_row(host: Host, job: Job, choice: Choice, uid: int) -> Row:
    """Return the row that decodes `choice`."""
    assert job.prepared is not None
    params, prepared = job.generation, job.prepared
    processors = _processors(params)
    context_size = params.repetition_context_size
    seen = prepared.tokens[:-1][-context_size:]
    wrapper = host.tokenizer.wrapper
    choice.guide = _guide(job, choice, wrapper)
    return Row(
        uid=uid,
        sampling=_sampling(params, choice_seed(job.seed, choice.index), wrapper),
        processors=processors,
        context=mx.array(seen, dtype=mx.uint32) if processors and seen else None,
        context_size=context_size,
        constraint=choice.guide,
        logprobs=params.logprobs,
    )


def draft_problem(host: Host, small: Host | None, job: Job) -> str:
    """Return why proposals of the model `small` cannot help this job; empty where they can."""
    params, prepared = job.generation, job.prepared
    if small is None:
        return "it is not in memory"
    if prepared is not None and prepared.constraint is not None:
        return "a constrained answer is decoded token by token"
    if params.n > 1 or params.logprobs >= 0 or _processors(params):
        return "several answers, log-probabilities and penalties are decoded token by token"
    if not (can_rewind(host.model) and can_rewind(small.model)):
        return "a cache of the kind that one of both models has cannot be rewound"
    if small.tokenizer.vocabulary != host.tokenizer.vocabulary:
        return "its vocabulary is another one"
    if prepared is not None and max(prepared.tokens) >= small.tokenizer.model_tokens:
        return "it lacks a token of the prompt"
    return ""


def _guide(job: Job, choice: Choice, wrapper: Any) -> Guide | None:
    """Return what holds the answer to the request's constraint, from its reasoning's end on."""
    assert job.prepared is not None
    if job.prepared.constraint is None:
        return None
    state = job.prepared.constraint.start()
    if choice.splitter.channel is Channel.REASONING:
        return Guide(state, think_end=tuple(wrapper.think_end_tokens))
    if job.method == "chat" and job.generation.thinking and wrapper.has_thinking:
        # The template leaves it to the model to open its reasoning.
        opens = tuple(wrapper.think_start_tokens)
        if len(opens) == 1:
            after = tuple(wrapper.think_end_tokens)
            return Guide(state, may_think=opens[0], think_end_after=after)
        choice.notes.append("the answer follows the constraint at once, without reasoning")
    return Guide(state)


def is_end(host: Host, job: Job, token: int) -> bool:
    """Whether `token` ends the answer. A constraint knows its end, so `ignore_eos` yields to it."""
    assert job.prepared is not None
    if job.generation.ignore_eos and job.prepared.constraint is None:
        return False
    return token in host.tokenizer.wrapper.eos_token_ids or token in job.prepared.extra_eos


def logprob_entry(host: Host, one: Emitted) -> dict[str, Any]:
    """Return the token with its log-probability (natural logarithm) and the alternatives."""
    decode = host.tokenizer.wrapper.decode
    return {
        "token": one.token,
        "text": decode([one.token]),
        "logprob": one.logprob,
        "top": [
            {"token": token, "text": decode([token]), "logprob": value} for token, value in one.top
        ],
    }


def _sampling(params: GenerationParams, seed: int, wrapper: Any) -> SamplingParams:
    exempt: tuple[int, ...] = ()
    if params.xtc_probability > 0:
        newline = wrapper.encode("\n", add_special_tokens=False)
        exempt = tuple({*newline[-1:], *wrapper.eos_token_ids})
    return SamplingParams(
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


def _processors(params: GenerationParams) -> tuple[Any, ...]:
    size = params.repetition_context_size
    penalty = params.repetition_penalty
    return tuple(
        make_logits_processors(
            logit_bias=params.logit_bias or None,
            repetition_penalty=penalty if penalty != 1.0 else None,
            repetition_context_size=size,
            presence_penalty=params.presence_penalty or None,
            presence_context_size=size,
            frequency_penalty=params.frequency_penalty or None,
            frequency_context_size=size,
        )
    )
