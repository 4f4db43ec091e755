"""Turns requests into prompts: chat templates, tokens, constraints. Runs off the compute thread.

Touches tokenizers only, never an array of MLX.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import SPMStreamingDetokenizer
from mlx_lm.utils import load_config

from mlxd.daemon.engine.constraints.compiler import Constraint, ConstraintCompiler
from mlxd.daemon.engine.constraints.tool_choice import (
    CallForm,
    call_source,
    forced_tools,
    offered_tools,
)
from mlxd.daemon.engine.models.files import vocabulary_size
from mlxd.daemon.engine.models.mlx_lm_imports import load_tokenizer
from mlxd.daemon.engine.request import ActiveRequest, ModelRef, Prepared, markers_of
from mlxd.daemon.engine.tokenization.chat_messages import (
    FOLDED,
    check_template_kwargs,
    fold_system,
    for_template,
    plain_form,
)
from mlxd.daemon.engine.tokenization.chat_template import RENDER_TIME_LIMIT_S
from mlxd.daemon.engine.tokenization.control_text import ControlText
from mlxd.daemon.engine.tokenization.light_tokenizer import LightTokenizer
from mlxd.daemon.engine.tokenization.prompt_size import prompt_bound
from mlxd.daemon.engine.tokenization.time_limit import TimeLimitExceeded, time_limit
from mlxd.daemon.models.architecture import context_tokens
from mlxd.daemon.prompt_bound import context_overflow
from mlxd.daemon.shortages import is_shortage
from mlxd.protocol.errors import (
    ConstraintInvalid,
    InvalidParams,
    MlxdError,
    ModelLoadFailed,
    OutOfMemory,
)

FIM_MARKERS = (
    # prefix, suffix, middle; whether the suffix comes first is never the case in these families
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("<PRE>", "<SUF>", "<MID>"),  # CodeLlama
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
FIM_ENDS = ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<EOT>", "▁<EOT>")
CUT_MIN_TOKENS = 16
"""A shared beginning shorter than this is not worth a snapshot."""
OPENINGS_KEPT = 16
"""One for each way of asking the template: thinking or not, and a caller's own arguments."""


class Tokenizer:
    """A model's tokenizer with all that turns requests into tokens; `pool` compiles constraints.

    Raises:
        ModelLoadFailed: the tokenizer's files are missing or damaged.
    """

    def __init__(self, ref: ModelRef, pool: ThreadPoolExecutor) -> None:
        folder = Path(ref.path)
        try:
            self.config: dict[str, Any] = load_config(folder)
            self.wrapper = load_tokenizer(
                folder,
                trust_remote_code=ref.trust_remote_code,
                eos_token_ids=self.config.get("eos_token_id"),
            )
            self._look_at(folder)
        except BaseException as exc:  # transformers raises anything, and model code may exit
            raise _tokenizer_failed(ref, exc) from exc
        self.name = ref.name
        self.context_tokens = context_tokens(self.config)
        self._pool = pool
        self._compiler: ConstraintCompiler | None = None
        self._openings: dict[str, list[int]] = {}
        self.prompt_bound = prompt_bound(
            self.wrapper._tokenizer,
            self.context_tokens,
            user_messages=self._renders_user_messages(),
        )

    def _look_at(self, folder: Path) -> None:
        """Take from the tokenizer what every request needs."""
        self.vocabulary: dict[str, int] = self.wrapper.get_vocab()
        self.model_tokens = vocabulary_size(folder, self.config) or len(self.wrapper)
        """Token ids that the model has; its tokenizer may have fewer or more."""
        marks = markers_of(self.wrapper)
        self._control = ControlText(
            self.wrapper._tokenizer,
            (marks.think_start, marks.think_end, marks.tool_start, marks.tool_end),
        )
        self._detokenizer = _padded(self.wrapper.detokenizer, self.model_tokens)

    def detokenizer(self) -> Any:
        """Return a streaming detokenizer; all share the table of the vocabulary's texts."""
        fresh = copy.copy(self._detokenizer)
        fresh.reset()
        return fresh

    def prepare(self, request: ActiveRequest) -> Prepared:
        """Return the request's prompt, without its constraint.

        Raises:
            InvalidParams: the template or the model cannot do what is asked.
            ContextOverflow: the prompt leaves no room for a single token.
        """
        method = request.method
        if method == "prefill":
            given = request.params
            method = next(
                name
                for name, key in (("chat", "messages"), ("generate", "prompt"), ("fill", "prefix"))
                if given.get(key) is not None
            )
        self.check_ids("logit_bias", request.params.get("logit_bias") or ())
        if self.prompt_bound is not None:
            self.prompt_bound.check(self.name, request.params)
        prepared = PREPARERS[method](self, request.params)
        if not prepared.tokens:
            raise InvalidParams("prompt", "has no tokens", hint="Give some text to continue.")
        self.check_context(len(prepared.tokens))
        # Also those of text: a tokenizer may have more tokens than the model.
        self.check_ids(PROMPT_PARAMS[method], prepared.tokens)
        return prepared

    def check_ids(self, param: str, tokens: Iterable[int]) -> None:
        """Raise InvalidParams for ids that the model does not have.

        MLX reads and writes whatever memory such an index points to.
        """
        worst = max(tokens, default=0)
        if worst >= self.model_tokens:
            raise InvalidParams(
                param,
                f"token {worst} is outside the vocabulary of {self.name}, "
                f"which has the ids 0 to {self.model_tokens - 1}",
                hint='See which ids a text has: mlx rpc tokenize \'{"text": "…"}\'',
            )

    def check_size(self, text: str) -> None:
        """Raise ContextOverflow for rendered text that cannot fit, without tokenizing it."""
        bound = self.prompt_bound
        if bound is None or bound.tokens_at_least(text) < bound.context_tokens:
            return
        tokens = bound.tokens_at_least(self._control.restored(text))
        self.check_context(tokens, "at least ")

    def check_context(self, prompt_tokens: int, bound: str = "") -> None:
        """Raise ContextOverflow for prompts that leave no room for a token.

        `bound` is "at least " if the number of tokens is a lower bound.
        """
        limit = self.context_tokens
        if limit is not None and prompt_tokens >= limit:
            raise context_overflow(self.name, prompt_tokens, limit, bound)

    def constraint(self, params: dict[str, Any]) -> Future[Constraint] | None:
        """Begin to compile what the answer must follow, or return None.

        Raises:
            ConstraintInvalid: constraints do not work with this tokenizer.
            InvalidParams: a call is to be forced, and the form of the model's calls is unknown.
        """
        if tools := forced_tools(params):
            return self._constraints().begin("tool_choice", self._call_source(tools))
        for kind in ("schema", "regex", "grammar"):
            if params.get(kind) is not None:
                return self._constraints().begin(kind, params[kind])
        return None

    def _call_source(self, tools: list[dict[str, Any]]) -> dict[str, Any]:
        wrapper = self.wrapper
        calls = bool(wrapper.has_tool_calling)
        form = CallForm(
            parser=wrapper.tool_parser.__module__.rpartition(".")[2] if calls else "",
            start=wrapper.tool_call_start or "",
            end=wrapper.tool_call_end or "",
            vocabulary=self._control.tokens,
        )
        try:
            lark, notes = call_source(form, tools)
        except ValueError as exc:
            raise ConstraintInvalid(f"A tool's parameters are refused: {exc}") from exc
        return {"lark": lark, "notes": notes}

    def _constraints(self) -> ConstraintCompiler:
        if self._compiler is None:
            self._compiler = ConstraintCompiler(
                self.wrapper._tokenizer,
                max(self.model_tokens, len(self.wrapper)),
                sorted(self.wrapper.eos_token_ids),
                self._pool,
                control_tokens=self._control.tokens,
            )
        return self._compiler

    def encode(self, text: str) -> list[int]:
        """Return the tokens of plain text, with the beginning token where the model wants one."""
        wrapper = self.wrapper
        has_bos = wrapper.bos_token is not None and text.startswith(wrapper.bos_token)
        return list(wrapper.encode(text, add_special_tokens=not has_bos))

    def chat_text(self, params: dict[str, Any]) -> tuple[str, list[str]]:
        """Return the conversation under the chat template, and notes on what was done otherwise."""
        check_template_kwargs(params.get("template_kwargs") or {})
        messages = self.guarded(params, [for_template(one) for one in params["messages"]])
        notes: list[str] = []
        if self.wrapper.has_chat_template:
            try:
                return self._render(messages, params), notes
            except TimeLimitExceeded as exc:
                raise InvalidParams(
                    "messages",
                    f"the chat template of {self.name} did not render within "
                    f"{RENDER_TIME_LIMIT_S:g} s",
                    hint="Check the template in the model's folder, or choose another model.",
                ) from exc
            except Exception as exc:  # Jinja templates raise what they like
                if (folded := self._render_folded(messages, params)) is not None:
                    return folded, [FOLDED]
                notes.append(f"the chat template failed ({_first_line(exc)}); plain form used")
        else:
            notes.append("the model has no chat template; plain form used")
        if offered_tools(params):
            raise InvalidParams(
                "tools",
                f"{self.name} has no chat template that takes tools",
                hint="Leave tools out, or choose a model with tool calling.",
            )
        return plain_form(messages), notes

    def _render(
        self, messages: list[dict[str, Any]], params: dict[str, Any], *, opened: bool = True
    ) -> str:
        """Return the conversation as text; unless `opened`, without the answer's beginning."""
        continues = messages[-1]["role"] == "assistant"
        extra = {
            # A template of the caller's own is none of the texts that templates tell.
            name: value if name == "chat_template" else self.guarded(params, value)
            for name, value in (params.get("template_kwargs") or {}).items()
        }
        renderer = self.wrapper
        if params.get("thinking") is not None:
            extra["enable_thinking"] = params["thinking"]
        elif "enable_thinking" not in extra and self.wrapper._chat_template is None:
            # mlx-lm's wrapper would turn thinking on; the template's own default is what counts.
            renderer = self.wrapper._tokenizer
            extra["return_dict"] = False
        # A light tokenizer limits the time itself: it may have to load the whole one first.
        light = isinstance(self.wrapper._tokenizer, LightTokenizer)
        with nullcontext() if light else time_limit(RENDER_TIME_LIMIT_S):
            text = renderer.apply_chat_template(
                messages,
                tools=self.guarded(params, offered_tools(params)),
                tokenize=False,
                add_generation_prompt=opened and not continues,
                continue_final_message=continues,
                **extra,
            )
        return str(text)

    def _renders_user_messages(self) -> bool:
        """Whether the chat template renders every user message in full."""
        first, last = "firstquestion", "lastquestion"
        roles = (("user", first), ("assistant", "answer"), ("user", last))
        try:
            text = self.chat_text(
                {"messages": [{"role": role, "content": content} for role, content in roles]}
            )[0]
        except Exception:  # a template may refuse what it was not made for
            return False
        return first in text and last in text

    def _render_folded(self, messages: list[dict[str, Any]], params: dict[str, Any]) -> str | None:
        """Return the conversation without a system role, or None where that is no help."""
        folded = fold_system(messages)
        try:
            return None if folded is None else self._render(folded, params)
        except Exception:  # then the first failure is the one to tell
            return None

    def guarded(self, params: dict[str, Any], value: Any) -> Any:
        """Return a caller's strings so that control tokens in them stay text."""
        return value if params.get("special_tokens_in_text") else self._control.guard(value)

    def encode_chat(self, text: str) -> list[int]:
        """Return the tokens of rendered text; the template has written its own special tokens."""
        return self._control.encode(text)

    def cuts(self, params: dict[str, Any], tokens: Sequence[int]) -> tuple[int, ...]:
        """Return after how many tokens the system prompt (with the tools) and the last turn end.

        There other prompts may go on otherwise: the next turn has the answer as the template
        tells it afterwards, for instance without its reasoning.
        """
        if not self.wrapper.has_chat_template:
            return ()
        return tuple(sorted({*self._system_cut(params, tokens), *self._turn_cut(params, tokens)}))

    def _turn_cut(self, params: dict[str, Any], tokens: Sequence[int]) -> tuple[int, ...]:
        opening = self._opening(params)
        size = len(tokens) - len(opening)
        if not opening or size < CUT_MIN_TOKENS or list(tokens[size:]) != opening:
            return ()
        return (size,)

    def _opening(self, params: dict[str, Any]) -> list[int]:
        """Return the tokens that open an answer, or none where the template does not tell."""
        asked = json.dumps(
            [
                params.get(name)
                for name in ("thinking", "template_kwargs", "special_tokens_in_text")
            ],
            sort_keys=True,
            default=str,
        )
        known = self._openings.get(asked)
        if known is None:
            if len(self._openings) >= OPENINGS_KEPT:
                self._openings.clear()
            known = self._openings[asked] = self._find_opening(params)
        return known

    def _find_opening(self, params: dict[str, Any]) -> list[int]:
        probe = [{"role": "user", "content": "a"}]
        names = ("thinking", "template_kwargs", "special_tokens_in_text")
        plain = {name: params.get(name) for name in names}
        try:
            whole = self._render(probe, plain)
            before = self._render(probe, plain, opened=False)
        except Exception:  # a template may refuse what it was not made for
            return []
        return self.encode_chat(whole[len(before) :]) if whole.startswith(before) else []

    def _system_cut(self, params: dict[str, Any], tokens: Sequence[int]) -> tuple[int, ...]:
        first = params["messages"][0]
        if first["role"] != "system":
            return ()
        # Two different next messages: what both renderings share is the reusable beginning.
        probes = []
        for word in ("a", "b"):
            system = self.guarded(params, for_template(first))
            messages = [system, {"role": "user", "content": word}]
            try:
                text: str | None = self._render(messages, params)
            except Exception:  # a template may refuse what it was not made for
                text = self._render_folded(messages, params)
            if text is None:
                return ()
            probes.append(self.encode_chat(text))
        shared = common_prefix(common_prefix(probes[0], probes[1]), tokens)
        return (len(shared),) if len(shared) >= CUT_MIN_TOKENS else ()

    def starts_in_reasoning(self, text: str) -> bool:
        """Whether the rendered prompt ends inside an opened reasoning block."""
        if not self.wrapper.has_thinking:
            return False
        opened = text.rfind(self.wrapper.think_start)
        return opened > text.rfind(self.wrapper.think_end)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return what both token lists begin with."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return list(first[:count])


def _prepare_chat(tokenizer: Tokenizer, params: dict[str, Any]) -> Prepared:
    text, notes = tokenizer.chat_text(params)
    if params.get("thinking") and not tokenizer.wrapper.has_thinking:
        notes.append(f"{tokenizer.name} does not think; thinking was ignored")
    tokenizer.check_size(text)
    tokens = tokenizer.encode_chat(text)
    tokenizer.check_context(len(tokens))  # before more is tokenized, to find cuts
    return Prepared(
        tokens=tokens,
        reasoning=tokenizer.starts_in_reasoning(text),
        cuts=tokenizer.cuts(params, tokens),
        notes=tuple(notes),
    )


def _prepare_generate(tokenizer: Tokenizer, params: dict[str, Any]) -> Prepared:
    prompt = params["prompt"]
    if not isinstance(prompt, str):
        return Prepared(list(prompt))
    tokenizer.check_size(prompt)
    return Prepared(tokenizer.encode(prompt))


def _prepare_fill(tokenizer: Tokenizer, params: dict[str, Any]) -> Prepared:
    vocabulary = tokenizer.vocabulary
    found = next((m for m in FIM_MARKERS if all(mark in vocabulary for mark in m)), None)
    if found is None:
        raise InvalidParams(
            "model",
            f"{tokenizer.name} has no fill-in-the-middle tokens",
            hint="Choose a code model that was trained to fill, or use generate.",
        )
    prefix, suffix, middle = found
    before, after = tokenizer.guarded(params, [params["prefix"], params.get("suffix") or ""])
    wrapper = tokenizer.wrapper
    text = f"{prefix}{before}{suffix}{after}{middle}"
    tokenizer.check_size(text)
    tokens = tokenizer.encode_chat(text)
    bos = wrapper.bos_token_id
    if bos is not None and getattr(wrapper._tokenizer, "add_bos_token", False):
        tokens.insert(0, bos)
    ends = frozenset(vocabulary[mark] for mark in (*found, *FIM_ENDS) if mark in vocabulary)
    return Prepared(tokens, extra_eos=ends)


PREPARERS: dict[str, Callable[[Tokenizer, dict[str, Any]], Prepared]] = {
    "chat": _prepare_chat,
    "generate": _prepare_generate,
    "fill": _prepare_fill,
}
PROMPT_PARAMS = {"chat": "messages", "generate": "prompt", "fill": "prefix"}
"""Method to the parameter that an error about its prompt names."""


def _padded(detokenizer: Any, model_tokens: int) -> Any:
    """Return the detokenizer with empty texts for ids that only the model has.

    mlx-lm's look tokens up in a list, and would raise an error or say "!".
    """
    texts = getattr(detokenizer, "tokenmap", None)
    if isinstance(texts, list):
        blank = b"" if isinstance(detokenizer, SPMStreamingDetokenizer) else ""
        known = [blank if text is None else text for text in texts]
        detokenizer.tokenmap = known + [blank] * max(0, model_tokens - len(known))
    return detokenizer


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]


def _tokenizer_failed(ref: ModelRef, exc: BaseException) -> MlxdError:
    if is_shortage(exc):
        return OutOfMemory(f"The tokenizer of {ref.name} cannot be loaded: {_first_line(exc)}")
    hint = ""
    if "trust_remote_code" in str(exc):
        hint = (
            f'It needs its own code: set trust_remote_code = true under [models."{ref.name}"] '
            "in config.toml, if you trust it."
        )
    return ModelLoadFailed(
        f"The tokenizer of {ref.name} cannot be read: {_first_line(exc)} ({ref.path})",
        hint=hint or "Restore tokenizer.json, or get the model again: mlx models pull NAME",
    )
