"""A lower bound for the tokens of a prompt, known without tokenizing it. Pure.

The engine derives the bound from a model's tokenizer and reports it to the front. The front
refuses prompts that cannot fit into the context, so that they never reach the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlxd.protocol.errors import ContextOverflow


@dataclass(frozen=True, slots=True)
class PromptTexts:
    """The texts of a prompt. `always` are in it, `user_messages` if the template renders them."""

    always: tuple[str, ...] = ()
    user_messages: tuple[str, ...] = ()

    @classmethod
    def from_map(cls, params: Mapping[str, Any]) -> PromptTexts:
        """Return the texts among the validated parameters of a completion."""
        given = (params.get(name) for name in ("prompt", "prefix", "suffix"))
        users: list[str] = []
        # A caller's own template may leave out anything.
        if not params.get("template_kwargs"):
            messages = params.get("messages") or ()
            # Templates strip the contents.
            users = [(m.get("content") or "").strip() for m in messages if m["role"] == "user"]
        return cls(tuple(text for text in given if isinstance(text, str)), tuple(users))


@dataclass(frozen=True, slots=True)
class PromptBound:
    """The limits of a model's context.

    `longest_bytes` is the length of the longest token. `uncounted` are bytes that may not become
    tokens. `user_messages` tells whether the chat template renders every user message in full.
    """

    context_tokens: int
    longest_bytes: int
    uncounted: bytes = b""
    user_messages: bool = False

    @classmethod
    def from_map(cls, raw: dict[str, Any]) -> PromptBound:
        return cls(**raw)

    def to_map(self) -> dict[str, Any]:
        return asdict(self)

    def tokens_at_least(self, text: str) -> int:
        """Return the least number of tokens that the text can have."""
        return -(-self._bytes(text) // self.longest_bytes)

    def _bytes(self, text: str) -> int:
        if not self.uncounted:
            return len(text) if text.isascii() else len(text.encode("utf-8", "ignore"))
        return len(text.encode("utf-8", "ignore").translate(None, self.uncounted))

    def check(self, model: str, prompt: PromptTexts) -> None:
        """Raise ContextOverflow for a prompt whose texts cannot fit into the context.

        Texts with few characters are not encoded, so that small requests cost next to nothing.
        """
        texts = (*prompt.always, *(prompt.user_messages if self.user_messages else ()))
        # No character has more than four bytes.
        if 4 * sum(map(len, texts)) < self.context_tokens * self.longest_bytes:
            return
        tokens = sum(map(self._bytes, texts)) // self.longest_bytes
        if tokens >= self.context_tokens:
            raise context_overflow(model, tokens, self.context_tokens, "at least ")


def context_overflow(model: str, tokens: int, limit: int, bound: str = "") -> ContextOverflow:
    """Return the error of a prompt that is too long. `bound` is "at least " for an estimate."""
    return ContextOverflow(
        f"The prompt has {bound}{tokens} tokens; {model} has a context of {limit}.",
        hint=f"Shorten the prompt by {tokens - limit + 1} tokens or more, or choose a model with a "
        "longer context: mlx models list",
        data={"prompt_tokens": tokens, "context_tokens": limit},
    )
