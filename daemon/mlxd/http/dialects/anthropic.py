"""Anthropic's messages: requests, whole answers and errors. `anthropic_stream` has the streams."""

from __future__ import annotations

from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Plan, Result
from mlxd.http.dialects import anthropic_stream, openai
from mlxd.http.dialects.anthropic_stream import SIGNATURE, MessageWriter, usage_of
from mlxd.http.problems import invalid
from mlxd.http.prompts import (
    Message,
    call_of,
    effort_thinks,
    flag,
    function_tool,
    list_of,
    map_of,
    settled,
    text_in,
    unknown_notes,
)
from mlxd.http.routes import Call

error_body = anthropic_stream.error_body

USED = frozenset({
    "model", "messages", "system", "max_tokens", "stream", "temperature", "top_p", "top_k",
    "stop_sequences", "tools", "tool_choice", "thinking", "output_config", "output_format",
    "mcp_servers", "container", "output_tokens",
})  # fmt: skip
IGNORED = frozenset({
    "metadata", "service_tier", "betas", "cache_control", "inference_geo", "speed",
    "context_management", "diagnostics",
})  # fmt: skip
"""Fields that do not change the answer. `context_management` only ever removes old results."""

NEUTRAL: dict[str, tuple[Any, ...]] = {"mcp_servers": ([],), "container": ()}
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
BILLING_LINE = "x-anthropic-billing-header:"
"""Claude Code's first line of the system prompt. It changes with every request, so that no KV
cache of the prompt could be used again."""


async def handle(call: Call) -> None:
    """Answer POST /v1/messages."""
    await answers.answer(call, plan(call.body))


async def handle_count(call: Call) -> None:
    """Answer POST /v1/messages/count_tokens, with the number that the request would have."""
    asked = plan({**call.body, "stream": False}).params
    names = ("model", "messages", "tools", "tool_choice", "thinking", "template_kwargs")
    params = {name: asked[name] for name in names if name in asked}
    async with call.daemon.connect() as client:
        found = await client.request("tokenize", params)
    await call.exchange.reply_json(200, {"input_tokens": found["count"]})


def plan(body: dict[str, Any]) -> Plan:
    """Translate the body of a request."""
    openai.refuse_unsupported(body, NEUTRAL)
    messages, notes = settled(messages_of(body))
    params: dict[str, Any] = {"model": body.get("model"), "messages": messages}
    for name, ours in SAMPLING.items():
        if body.get(name) is not None:
            params[ours] = body[name]
    tools, tool_notes = _with_tools(body)
    params |= {**tools, **_format(body)}
    if (thinking := _thinking(body)) is not None:
        params["thinking"] = thinking
    params, own = answers.limited(params, body.get("max_tokens"))
    notes += [*tool_notes, *unknown_notes(body, USED, IGNORED)]
    model = str(body.get("model") or "")
    writer = MessageWriter(model) if flag(body, "stream") else None
    return Plan("chat", params, lambda result: whole(result, model), writer, tuple(notes), own)


# ---- requests


def messages_of(body: dict[str, Any]) -> list[Message]:
    """Return the messages as the daemon takes them. Raises InvalidParams."""
    given = list_of(body, "messages")
    if not given:
        raise invalid("messages", "must be a non-empty list")
    out: list[Message] = []
    if system := system_of(body.get("system")):
        out.append({"role": "system", "content": system})
    for index, raw in enumerate(given):
        where = f"messages.{index}"
        one = map_of(raw, where)
        read = _READERS.get(str(one.get("role")))
        if read is None:
            raise invalid(f"{where}.role", "must be user, assistant or system")
        out += read(_blocks(one.get("content"), f"{where}.content"), f"{where}.content")
    return out


def system_of(system: Any) -> str:
    """Return the system prompt: a string or text blocks, without Claude Code's billing line."""
    texts = (
        [system]
        if isinstance(system, str)
        else [text_in([part], f"system.{index}") for index, part in enumerate(system or [])]
    )
    kept = []
    for text in texts:
        lines = text.split("\n")
        if any(line.startswith(BILLING_LINE) for line in lines):
            text = "\n".join(line for line in lines if not line.startswith(BILLING_LINE)).lstrip(
                "\n"
            )
        if text:
            kept.append(text)
    return "\n\n".join(kept)


Blocks = list[dict[str, Any]]


def _blocks(content: Any, where: str) -> Blocks:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise invalid(where, "must be a string or a list of blocks")
    return [map_of(block, f"{where}.{index}") for index, block in enumerate(content)]


def _system(blocks: Blocks, where: str) -> list[Message]:
    return [{"role": "system", "content": text_in(blocks, where)}]


def _user(blocks: Blocks, where: str) -> list[Message]:
    """Return the results of tools as messages of their own, then the text."""
    out: list[Message] = []
    texts: list[Any] = []
    for index, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            texts.append(block)
            continue
        content = text_in(block.get("content"), f"{where}.{index}.content")
        if block.get("is_error") is True:
            content = f"Error: {content}"
        out.append(
            {
                "role": "tool",
                "content": content,
                "tool_call_id": str(block.get("tool_use_id") or ""),
            }
        )
    if texts or not out:
        parts = [text_in([block], where) for block in texts]
        out.append({"role": "user", "content": "\n\n".join(part for part in parts if part)})
    return out


def _assistant(blocks: Blocks, where: str) -> list[Message]:
    reasoning, texts, calls = "", "", []
    for block in blocks:
        kind = block.get("type")
        if kind == "thinking":
            reasoning += str(block.get("thinking") or "")
        elif kind == "tool_use":
            calls.append(call_of(block.get("name"), block.get("input"), block.get("id")))
        elif kind != "redacted_thinking":
            texts += text_in([block], where)
    message: Message = {"role": "assistant", "content": texts}
    if reasoning:
        message["reasoning"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return [message]


_READERS = {"system": _system, "user": _user, "assistant": _assistant}


def _with_tools(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the daemon's `tools` and `tool_choice`. Tools of Anthropic's servers are skipped."""
    tools, notes = [], []
    for index, raw in enumerate(list_of(body, "tools")):
        where = f"tools.{index}"
        tool = map_of(raw, where)
        if tool.get("type") not in (None, "custom"):
            notes.append(f"ignored: {where} of the type {str(tool['type'])[:40]}")
            continue
        schema = tool.get("input_schema")
        tools.append(function_tool(tool.get("name"), tool.get("description"), schema, where))
    if not tools:
        return {}, notes
    choice = map_of(body.get("tool_choice") or {"type": "auto"}, "tool_choice")
    kind = str(choice.get("type"))
    found = choice.get("name") if kind == "tool" else CHOICES.get(kind)
    if not isinstance(found, str):
        raise invalid("tool_choice.type", "must be auto, any, tool with a name, or none")
    return {"tools": tools, "tool_choice": found}, notes


def _format(body: dict[str, Any]) -> dict[str, Any]:
    config = body.get("output_config")
    given = body.get("output_format")
    if given is None and isinstance(config, dict):
        given = config.get("format")
    return openai.format_of(given, "output_config.format")


def _thinking(body: dict[str, Any]) -> bool | None:
    thinking = body.get("thinking")
    if thinking is not None:
        kind = map_of(thinking, "thinking").get("type")
        if kind not in ("enabled", "disabled", "adaptive"):
            raise invalid("thinking.type", "must be enabled, adaptive or disabled")
        return bool(kind != "disabled")
    config = body.get("output_config")
    return effort_thinks(config.get("effort")) if isinstance(config, dict) else None


# ---- answers


def whole(result: Result, model: str) -> dict[str, Any]:
    """Return a message."""
    first = result["choices"][0]
    content: Blocks = []
    if first["reasoning"]:
        thinking = {"thinking": first["reasoning"], "signature": SIGNATURE}
        content.append({"type": "thinking", **thinking})
    if first["text"]:
        content.append({"type": "text", "text": first["text"]})
    content += [
        {
            "type": "tool_use",
            "id": openai.new_id("toolu_"),
            "name": call["name"],
            "input": call["arguments"],
        }
        for call in first["tool_calls"]
    ]
    return {
        "id": openai.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model or result["applied"]["model"],
        "content": content,
        "stop_reason": anthropic_stream.stop_reason(first["finish_reason"]),
        "stop_sequence": None,
        "usage": usage_of(result),
    }
