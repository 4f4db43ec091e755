"""What chat templates get to see of a conversation, and what is done where they refuse it. Pure."""

from __future__ import annotations

import json
from typing import Any

from mlxd.protocol.errors import InvalidParams

FOLDED = "the chat template takes no system message; it was put before the first user message"

SET_BY_THE_REQUEST = frozenset(
    {"messages", "conversation", "tools", "add_generation_prompt", "continue_final_message"}
    | {"tokenize", "return_dict", "return_tensors", "padding", "truncation", "max_length"}
)
"""Arguments of the template's rendering that a caller's `template_kwargs` may not replace."""


def check_template_kwargs(given: dict[str, Any]) -> None:
    """Raise InvalidParams for variables that the request itself sets."""
    for name in given:
        if name in SET_BY_THE_REQUEST:
            raise InvalidParams(
                "template_kwargs",
                f"{name!r} is set by the request itself",
                hint="Leave it out. Messages and tools are parameters of their own.",
            )


def fold_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return the messages with the system message inside the first user message.

    None where there is no system message.
    """
    if messages[0]["role"] != "system":
        return None
    system, rest = messages[0]["content"], messages[1:]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system}, *rest]
    return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]


def plain_form(messages: list[dict[str, Any]]) -> str:
    """Return the conversation as text for models without a template.

    Blocks `System: …`, `User: …`, `Assistant: …`, separated by a blank line.
    """
    names = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
    blocks = [f"{names[m['role']]}: {m.get('content') or ''}" for m in messages]
    if messages[-1]["role"] == "assistant":
        return "\n\n".join(blocks)
    return "\n\n".join([*blocks, "Assistant: "])


def for_template(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as templates expect it: maps as tool arguments, text as content."""
    out = {key: value for key, value in message.items() if value is not None}
    out.setdefault("content", "")
    if "reasoning" in out:
        out["reasoning_content"] = out.pop("reasoning")
    if calls := out.get("tool_calls"):
        out["tool_calls"] = [_call(call) for call in calls]
    return out


def _call(call: Any) -> dict[str, Any]:
    try:
        function = dict(call.get("function", call))
        if isinstance(function.get("arguments"), str):
            function["arguments"] = json.loads(function["arguments"])
        kept = {"name": function["name"], "arguments": function.get("arguments", {})}
        return {"type": "function", "id": call.get("id"), "function": kept}
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise InvalidParams(
            "messages.tool_calls", "must be {name, arguments} or {function: {name, arguments}}"
        ) from exc
