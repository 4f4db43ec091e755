"""OpenAI's chat completions."""

from __future__ import annotations

from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Event, Plan, Result
from mlxd.http.dialects import openai
from mlxd.http.exchange import dump_json
from mlxd.http.problems import invalid
from mlxd.http.prompts import (
    Message,
    call_of,
    effort_thinks,
    flag,
    list_of,
    map_of,
    settled,
    text_in,
    unknown_notes,
)
from mlxd.http.routes import Call
from mlxd.protocol.errors import MlxdError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
USED = openai.SAMPLING | {
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens",
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs",
    "reasoning_effort", "reasoning", *openai.NEUTRAL,
}  # fmt: skip


async def handle(call: Call) -> None:
    """Answer POST /v1/chat/completions."""
    await answers.answer(call, plan(call.body))


def plan(body: dict[str, Any]) -> Plan:
    """Translate the body of a request."""
    openai.refuse_unsupported(body, {"echo": (False,)})
    messages, notes = settled(messages_of(body))
    tools, tool_notes = openai.with_tools(body)
    params = {
        "model": body.get("model"),
        "messages": messages,
        **openai.sampling_of(body),
        **openai.format_of(body.get("response_format"), "response_format"),
        **tools,
        **_logprobs(body),
    }
    if (thinking := _thinking(body)) is not None:
        params["thinking"] = thinking
    asked = body.get("max_completion_tokens")
    params, own = answers.limited(params, body.get("max_tokens") if asked is None else asked)
    notes += [*tool_notes, *unknown_notes(body, USED, openai.IGNORED)]
    model = str(body.get("model") or "")
    writer = ChatWriter(model, include_usage=_include_usage(body)) if flag(body, "stream") else None
    return Plan("chat", params, lambda result: whole(result, model), writer, tuple(notes), own)


def _include_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return (
        flag(map_of(options, "stream_options"), "include_usage") if options is not None else False
    )


def _thinking(body: dict[str, Any]) -> bool | None:
    given = body.get("reasoning")
    effort = given.get("effort") if isinstance(given, dict) else None
    asked = body.get("reasoning_effort")
    return effort_thinks(effort if asked is None else asked)


def _logprobs(body: dict[str, Any]) -> dict[str, Any]:
    top = body.get("top_logprobs")
    if not flag(body, "logprobs"):
        if top:
            raise invalid("top_logprobs", "needs logprobs: true")
        return {}
    return {"logprobs": 0 if top is None else top}


# ---- messages


def messages_of(body: dict[str, Any]) -> list[Message]:
    """Return the messages as the daemon takes them. Raises InvalidParams."""
    given = list_of(body, "messages")
    if not given:
        raise invalid("messages", "must be a non-empty list")
    return [
        _message(map_of(one, f"messages[{i}]"), f"messages[{i}]") for i, one in enumerate(given)
    ]


def _message(one: dict[str, Any], where: str) -> Message:
    role = ROLES.get(str(one.get("role")))
    if role is None:
        raise invalid(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    out: Message = {"role": role, "content": text_in(one.get("content"), f"{where}.content")}
    if isinstance(one.get("name"), str):
        out["name"] = one["name"]
    if role == "tool" and isinstance(one.get("tool_call_id"), str):
        out["tool_call_id"] = one["tool_call_id"]
    if role != "assistant":
        return out
    reasoning = one.get("reasoning_content") or one.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        out["reasoning"] = reasoning
    calls = [map_of(raw, f"{where}.tool_calls") for raw in list_of(one, "tool_calls")]
    if calls:
        out["tool_calls"] = [_call(raw) for raw in calls]
    return out


def _call(raw: dict[str, Any]) -> dict[str, Any]:
    inner = raw.get("function")
    function: dict[str, Any] = inner if isinstance(inner, dict) else raw
    return call_of(function.get("name"), function.get("arguments"), raw.get("id"))


# ---- answers


def tool_call(name: str, arguments: Any) -> dict[str, Any]:
    """Return a tool call with an id of its own."""
    function = {"name": name, "arguments": dump_json(arguments).decode()}
    return {"id": openai.new_id("call_"), "type": "function", "function": function}


def whole(result: Result, model: str) -> dict[str, Any]:
    """Return a chat completion."""
    return {
        "id": openai.new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": openai.now(),
        "model": model or result["applied"]["model"],
        "system_fingerprint": openai.FINGERPRINT,
        "choices": [_choice(one) for one in result["choices"]],
        "usage": openai.usage_of(result),
    }


def _choice(one: dict[str, Any]) -> dict[str, Any]:
    calls = [tool_call(call["name"], call["arguments"]) for call in one["tool_calls"]]
    message: dict[str, Any] = {"role": "assistant", "content": one["text"], "refusal": None}
    if calls:
        message["content"] = one["text"] or None
        message["tool_calls"] = calls
    if one["reasoning"]:
        message["reasoning_content"] = message["reasoning"] = one["reasoning"]
    return {
        "index": one["index"],
        "message": message,
        "logprobs": logprobs(one.get("logprobs")),
        "finish_reason": one["finish_reason"],
    }


def logprobs(given: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """Return log-probabilities in the form of chat completions."""
    if given is None:
        return None
    content = [
        {**_token(one), "top_logprobs": [_token(top) for top in one.get("top") or []]}
        for one in given
    ]
    return {"content": content, "refusal": None}


def _token(one: dict[str, Any]) -> dict[str, Any]:
    text = one["text"]
    return {"token": text, "logprob": one["logprob"], "bytes": [*text.encode("utf-8", "replace")]}


class ChatWriter:
    """Writes chat completion chunks. All have the same id, time and model."""

    content_type = "text/event-stream"

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._about = {
            "id": openai.new_id("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": openai.now(),
            "model": model,
            "system_fingerprint": openai.FINGERPRINT,
        }
        self._include_usage = include_usage
        self._begun: set[int] = set()
        self._calls: dict[int, int] = {}

    def event(self, event: Event) -> bytes:
        if event["type"] == "delta":
            text = event["text"]
            if event["channel"] == "reasoning":
                delta = {"reasoning_content": text, "reasoning": text}
            else:
                delta = {"content": text}
            return self._chunk(event["index"], delta, chances=logprobs(event.get("logprobs")))
        if event["type"] == "tool_call":
            index = event["index"]
            number = self._calls[index] = self._calls.get(index, -1) + 1
            call = {"index": number, **tool_call(event["name"], event["arguments"])}
            return self._chunk(index, {"tool_calls": [call]})
        return b""

    def alive(self) -> bytes:
        return self._chunk(0, {"content": ""})

    def end(self, result: Result) -> bytes:
        chunks = [
            self._chunk(one["index"], {}, finish_reason=one["finish_reason"])
            for one in result["choices"]
        ]
        if self._include_usage:
            last = {**self._about, "choices": [], "usage": openai.usage_of(result)}
            chunks.append(openai.sse(last))
        return b"".join(chunks) + openai.DONE

    def fail(self, error: MlxdError) -> bytes:
        return openai.sse({"error": openai.error_object(error)}) + openai.DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        chances: dict[str, Any] | None = None,
    ) -> bytes:
        first = b""
        if index not in self._begun:
            self._begun.add(index)
            first = self._chunk(index, {"role": "assistant", "content": ""})
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chances,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._include_usage else {}
        return first + openai.sse({**self._about, "choices": [choice], **usage})
