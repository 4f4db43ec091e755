"""Converts each kind of prompt into tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxd.daemon.engine.generation import GenerationRequest
from mlxd.daemon.engine.mlx_lm_private import hf_tokenizer
from mlxd.daemon.engine.prompt import ChatPrompt, FillPrompt, TextPrompt, TokenPrompt
from mlxd.daemon.engine.request import Prepared
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import InvalidParams

FIM_MARKERS = (
    # Markers of prefix, suffix and middle. All these families put the prefix first.
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("<PRE>", "<SUF>", "<MID>"),  # CodeLlama
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
FIM_ENDS = ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<EOT>", "▁<EOT>")


def prepare(tokenizer: Tokenizer, request: GenerationRequest) -> Prepared:
    """Return the request's prompt as tokens, without its constraint.

    Raises:
        InvalidParams: the template or the model does not support the request.
        ContextOverflow: the prompt leaves no room for a token.
    """
    prompt = request.prompt
    tokenizer.check_ids("logit_bias", request.params.sampling.logit_bias or ())
    if tokenizer.prompt_bound is not None:
        tokenizer.prompt_bound.check(tokenizer.name, prompt.texts)
    param, encode = ENCODERS[type(prompt)]
    prepared = encode(tokenizer, prompt)
    if not prepared.tokens:
        raise InvalidParams("prompt", "has no tokens", hint="Give some text to continue.")
    tokenizer.check_context(len(prepared.tokens))
    # Text is checked too, because a tokenizer may have more tokens than the model.
    tokenizer.check_ids(param, prepared.tokens)
    return prepared


def _chat(tokenizer: Tokenizer, prompt: ChatPrompt) -> Prepared:
    text, notes = tokenizer.chat.text(prompt)
    if prompt.thinking and not tokenizer.wrapper.has_thinking:
        notes.append(f"{tokenizer.name} cannot think; the option thinking was ignored")
    tokenizer.check_size(text)
    tokens = tokenizer.encode_chat(text)
    tokenizer.check_context(len(tokens))  # before more is tokenized to find cuts
    return Prepared(
        tokens=tokens,
        reasoning=tokenizer.chat.starts_in_reasoning(text),
        cuts=tokenizer.chat.cuts(prompt, tokens),
        notes=tuple(notes),
    )


def _text(tokenizer: Tokenizer, prompt: TextPrompt) -> Prepared:
    tokenizer.check_size(prompt.text)
    return Prepared(tokenizer.encode(prompt.text))


def _tokens(_tokenizer: Tokenizer, prompt: TokenPrompt) -> Prepared:
    return Prepared(list(prompt.tokens))


def _fill(tokenizer: Tokenizer, prompt: FillPrompt) -> Prepared:
    vocabulary = tokenizer.vocabulary
    found = next((m for m in FIM_MARKERS if all(mark in vocabulary for mark in m)), None)
    if found is None:
        raise InvalidParams(
            "model",
            f"{tokenizer.name} has no fill-in-the-middle tokens",
            hint="Choose a code model that was trained to fill, or use generate.",
        )
    prefix, suffix, middle = found
    before, after = tokenizer.guarded(prompt, [prompt.prefix, prompt.suffix])
    wrapper = tokenizer.wrapper
    text = f"{prefix}{before}{suffix}{after}{middle}"
    tokenizer.check_size(text)
    tokens = tokenizer.encode_chat(text)
    bos = wrapper.bos_token_id
    if bos is not None and getattr(hf_tokenizer(wrapper), "add_bos_token", False):
        tokens.insert(0, bos)
    ends = frozenset(vocabulary[mark] for mark in (*found, *FIM_ENDS) if mark in vocabulary)
    return Prepared(tokens, extra_eos=ends)


ENCODERS: dict[type, tuple[str, Callable[[Tokenizer, Any], Prepared]]] = {
    ChatPrompt: ("messages", _chat),
    TextPrompt: ("prompt", _text),
    TokenPrompt: ("prompt", _tokens),
    FillPrompt: ("prefix", _fill),
}
"""Maps a kind of prompt to the parameter that an error names, and to the function that encodes
it."""
