"""The prompt of a request, parsed once from the wire into frozen values. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxd.daemon.engine.constraints.tool_choice import Tool, ToolUse
from mlxd.daemon.prompt_bound import PromptTexts
from mlxd.protocol.errors import InvalidParams

SET_BY_THE_REQUEST = frozenset(
    {"messages", "conversation", "tools", "add_generation_prompt", "continue_final_message"}
    | {"tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length"}
)
"""Arguments for the template that a caller's `template_kwargs` may not replace."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made earlier in the conversation. `arguments` are JSON."""

    id: Any
    name: Any
    arguments: Any

    @classmethod
    def from_map(cls, raw: Any) -> ToolCall:
        """Parse `{name, arguments}` or `{function: {name, arguments}}`. Raises InvalidParams."""
        try:
            function = raw.get("function", raw)
            arguments = function.get("arguments", {})
            if isinstance(arguments, str):
                arguments = json.loads(arguments)
            return cls(raw.get("id"), function["name"], arguments)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise InvalidParams(
                "messages.tool_calls", "must be {name, arguments} or {function: {name, arguments}}"
            ) from exc


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> ChatMessage:
        calls = raw.get("tool_calls")
        return cls(
            role=raw["role"],
            content=raw.get("content") or "",
            reasoning=raw.get("reasoning"),
            tool_calls=None if calls is None else tuple(map(ToolCall.from_map, calls)),
            tool_call_id=raw.get("tool_call_id"),
            name=raw.get("name"),
        )


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, which the model's chat template renders."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[Tool, ...] | None = None
    """Tools that the template shows to the model."""
    thinking: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_in_text: bool = False
    """Whether control tokens in the caller's texts take effect."""

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> ChatPrompt:
        """Raises InvalidParams for tool calls of an unknown form and reserved variables."""
        kwargs = raw.get("template_kwargs") or {}
        check_template_kwargs(kwargs)
        return cls(
            messages=tuple(map(ChatMessage.from_map, raw["messages"])),
            tools=ToolUse.from_map(raw).offered,
            thinking=raw.get("thinking"),
            template_kwargs=kwargs,
            special_tokens_in_text=bool(raw.get("special_tokens_in_text")),
        )

    @property
    def texts(self) -> PromptTexts:
        users = () if self.template_kwargs else (m for m in self.messages if m.role == "user")
        return PromptTexts(user_messages=tuple(message.content.strip() for message in users))

    @property
    def characters(self) -> int:
        """Return the length of all strings, as a measure of the work of tokenizing them."""
        own = sum(_message_characters(message) for message in self.messages)
        return own + characters(self.tools or ()) + characters(self.template_kwargs)


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text to continue."""

    text: str

    @property
    def texts(self) -> PromptTexts:
        return PromptTexts((self.text,))

    @property
    def characters(self) -> int:
        return len(self.text)


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue."""

    tokens: tuple[int, ...]

    @property
    def texts(self) -> PromptTexts:
        return PromptTexts()

    @property
    def characters(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class FillPrompt:
    """The code before and after a gap to fill."""

    prefix: str
    suffix: str = ""
    special_tokens_in_text: bool = False

    @property
    def texts(self) -> PromptTexts:
        return PromptTexts((self.prefix, self.suffix))

    @property
    def characters(self) -> int:
        return len(self.prefix) + len(self.suffix)


Prompt = ChatPrompt | TextPrompt | TokenPrompt | FillPrompt


def parse_prompt(raw: Mapping[str, Any]) -> Prompt:
    """Return the prompt in the validated parameters of a method. Raises InvalidParams."""
    if raw.get("messages") is not None:
        return ChatPrompt.from_map(raw)
    if raw.get("prefix") is not None:
        special = bool(raw.get("special_tokens_in_text"))
        return FillPrompt(raw["prefix"], raw.get("suffix") or "", special)
    prompt = raw["prompt"] if raw.get("prompt") is not None else raw["text"]
    return TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(tuple(prompt))


def check_template_kwargs(given: Mapping[str, Any]) -> None:
    """Raise InvalidParams for variables that the request itself sets."""
    for name in given:
        if name in SET_BY_THE_REQUEST:
            raise InvalidParams(
                "template_kwargs",
                f"{name!r} is already set by the request",
                hint="Leave it out. Messages and tools have their own parameters.",
            )


def characters(value: Any) -> int:
    """Return the length of all strings and lists in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(characters, value.values()))
    if isinstance(value, (list, tuple)):
        return len(value) + sum(characters(item) for item in value if not isinstance(item, int))
    return 0


def _message_characters(message: ChatMessage) -> int:
    calls = sum(characters(call.arguments) for call in message.tool_calls or ())
    return len(message.content) + len(message.reasoning or "") + calls
