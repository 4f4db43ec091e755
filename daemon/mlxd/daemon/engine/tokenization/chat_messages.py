"""Prepares messages for chat templates, and adapts them if a template refuses them. Pure."""

from __future__ import annotations

from typing import Any

from mlxd.daemon.engine.prompt import ChatMessage

FOLDED = (
    "the chat template does not support a system message, which was put into the first user message"
)

Message = dict[str, Any]
"""A variable of a chat template, not the request's own message."""


def for_template(message: ChatMessage) -> Message:
    """Return a message with the keys that templates expect. Tool arguments are maps."""
    out: Message = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        out["reasoning_content"] = message.reasoning
    for name in ("tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            out[name] = value
    if message.tool_calls is not None:
        out["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return out


def fold_system(messages: list[Message]) -> list[Message] | None:
    """Return the messages with the system message put into the first user message.

    None if there is no system message.
    """
    if messages[0]["role"] != "system":
        return None
    system, rest = messages[0]["content"], messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system}, *rest]
    return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def plain_form(messages: list[Message]) -> str:
    """Return the conversation as text for models without a template.

    Blocks `System: …`, `User: …`, `Assistant: …`, separated by a blank line.
    """
    names = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
    blocks = [f"{names[m['role']]}: {m.get('content') or ''}" for m in messages]
    if messages[-1]["role"] == "assistant":
        return "\n\n".join(blocks)
    return "\n\n".join([*blocks, "Assistant: "])
