"""Renders conversations with a model's chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from mlxd.daemon.engine.mlx_lm_private import hf_tokenizer, renders_chats_itself
from mlxd.daemon.engine.prompt import ChatMessage, ChatPrompt
from mlxd.daemon.engine.tokenization.chat_messages import (
    FOLDED,
    Message,
    fold_system,
    for_template,
    plain_form,
)
from mlxd.daemon.engine.tokenization.chat_template import RENDER_TIME_LIMIT_S
from mlxd.daemon.engine.tokenization.control_text import ControlText
from mlxd.daemon.engine.tokenization.light_tokenizer import LightTokenizer
from mlxd.daemon.engine.tokenization.time_limit import TimeLimitExceeded, time_limit
from mlxd.protocol.errors import InvalidParams

CUT_MIN_TOKENS = 16
"""A shorter common prefix is not worth a snapshot."""
OPENINGS_KEPT = 16
"""One entry for each combination of thinking and a caller's own template variables."""


class ChatRenderer:
    """The chat template of the model `name`.

    `control` ensures that callers' control tokens remain text.
    """

    def __init__(self, name: str, wrapper: Any, control: ControlText) -> None:
        self._name = name
        self._wrapper = wrapper
        self._control = control
        self._openings: dict[str, list[int]] = {}

    def text(self, prompt: ChatPrompt) -> tuple[str, list[str]]:
        """Return the rendered conversation, and notes on adaptations.

        Raises:
            InvalidParams: the template takes too long, or does not support tools.
        """
        messages = guarded(self._control, prompt, [for_template(one) for one in prompt.messages])
        notes: list[str] = []
        if self._wrapper.has_chat_template:
            try:
                return self._render(messages, prompt), notes
            except TimeLimitExceeded as exc:
                raise self._too_slow() from exc
            except Exception as exc:  # Jinja templates may raise any exception
                if (folded := self._render_folded(messages, prompt)) is not None:
                    return folded, [FOLDED]
                notes.append(f"the chat template failed ({first_line(exc)}); used a generic format")
        else:
            notes.append("the model has no chat template; used a generic format")
        if prompt.tools:
            raise InvalidParams(
                "tools",
                f"{self._name} has no chat template that supports tools",
                hint="Leave tools out, or choose a model with tool calling.",
            )
        return plain_form(messages), notes

    def cuts(self, prompt: ChatPrompt, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the token counts at the end of the system prompt (with tools) and of the last
        turn.

        Other prompts may differ after these points. For example, the template may render an answer
        without its reasoning in the next turn.
        """
        if not self._wrapper.has_chat_template:
            return ()
        return tuple(sorted({*self._system_cut(prompt, tokens), *self._turn_cut(prompt, tokens)}))

    def starts_in_reasoning(self, text: str) -> bool:
        """Return whether the rendered prompt ends inside an open reasoning block."""
        if not self._wrapper.has_thinking:
            return False
        opened = text.rfind(self._wrapper.think_start)
        return bool(opened > text.rfind(self._wrapper.think_end))

    def renders_user_messages(self) -> bool:
        """Return whether the chat template renders every user message in full."""
        first, last = "firstquestion", "lastquestion"
        roles = (("user", first), ("assistant", "answer"), ("user", last))
        try:
            text = self.text(ChatPrompt(tuple(ChatMessage(*message) for message in roles)))[0]
        except Exception:  # a template may refuse unexpected messages
            return False
        return first in text and last in text

    def _too_slow(self) -> InvalidParams:
        return InvalidParams(
            "messages",
            f"the chat template of {self._name} did not render within {RENDER_TIME_LIMIT_S:g} s",
            hint="Check the template in the model's folder, or choose another model.",
        )

    def _render(self, messages: list[Message], prompt: ChatPrompt, *, opened: bool = True) -> str:
        """Return the conversation as text. Unless `opened`, without the beginning of the answer."""
        continues = messages[-1]["role"] == "assistant"
        extra = {
            # For a caller's own template, every part between control tokens counts as the caller's.
            name: value if name == "chat_template" else guarded(self._control, prompt, value)
            for name, value in prompt.template_kwargs.items()
        }
        inner = hf_tokenizer(self._wrapper)
        renderer = self._wrapper
        if prompt.thinking is not None:
            extra["enable_thinking"] = prompt.thinking
        elif "enable_thinking" not in extra and not renders_chats_itself(self._wrapper):
            # mlx-lm's wrapper would turn thinking on. The template's own default is used instead.
            renderer = inner
            extra["return_dict"] = False
        # A light tokenizer limits the time itself, because it may have to load the full one first.
        light = isinstance(inner, LightTokenizer)
        tools = None if prompt.tools is None else list(prompt.tools)
        with nullcontext() if light else time_limit(RENDER_TIME_LIMIT_S):
            text = renderer.apply_chat_template(
                messages,
                tools=guarded(self._control, prompt, tools),
                tokenize=False,
                add_generation_prompt=opened and not continues,
                continue_final_message=continues,
                **extra,
            )
        return str(text)

    def _render_folded(self, messages: list[Message], prompt: ChatPrompt) -> str | None:
        """Return the conversation without a system role, or None if that does not help."""
        folded = fold_system(messages)
        try:
            return None if folded is None else self._render(folded, prompt)
        except Exception:  # then the first error is reported
            return None

    def _turn_cut(self, prompt: ChatPrompt, tokens: Sequence[int]) -> tuple[int, ...]:
        opening = self._opening(prompt)
        size = len(tokens) - len(opening)
        if not opening or size < CUT_MIN_TOKENS or list(tokens[size:]) != opening:
            return ()
        return (size,)

    def _opening(self, prompt: ChatPrompt) -> list[int]:
        """Return the tokens that start an answer, or none if the template does not show them."""
        options = (prompt.thinking, dict(prompt.template_kwargs), prompt.special_tokens_in_text)
        key = json.dumps(options, sort_keys=True, default=str)
        known = self._openings.get(key)
        if known is None:
            if len(self._openings) >= OPENINGS_KEPT:
                self._openings.clear()
            known = self._openings[key] = self._find_opening(replace(prompt, tools=None))
        return known

    def _find_opening(self, prompt: ChatPrompt) -> list[int]:
        probe = [{"role": "user", "content": "a"}]
        try:
            whole = self._render(probe, prompt)
            before = self._render(probe, prompt, opened=False)
        except Exception:  # a template may refuse unexpected messages
            return []
        return self._control.encode(whole[len(before) :]) if whole.startswith(before) else []

    def _system_cut(self, prompt: ChatPrompt, tokens: Sequence[int]) -> tuple[int, ...]:
        first = prompt.messages[0]
        if first.role != "system":
            return ()
        # Render two different next messages. The common prefix of both is reusable.
        probes = []
        for word in ("a", "b"):
            system = guarded(self._control, prompt, for_template(first))
            messages = [system, {"role": "user", "content": word}]
            try:
                text: str | None = self._render(messages, prompt)
            except Exception:  # a template may refuse unexpected messages
                text = self._render_folded(messages, prompt)
            if text is None:
                return ()
            probes.append(self._control.encode(text))
        shared = common_prefix(common_prefix(probes[0], probes[1]), tokens)
        return (len(shared),) if len(shared) >= CUT_MIN_TOKENS else ()


def guarded(control: ControlText, prompt: Any, value: Any) -> Any:
    """Return a caller's strings, changed so that control tokens in them remain text, unless
    allowed."""
    return value if prompt.special_tokens_in_text else control.guard(value)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """Return the common prefix of two token lists."""
    count = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        count += 1
    return list(first[:count])


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message, or its type."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
