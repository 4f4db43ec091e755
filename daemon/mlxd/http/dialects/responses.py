"""OpenAI's Responses: requests and whole answers. `responses_stream` has the streams."""

from __future__ import annotations

from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Plan, Result
from mlxd.http.dialects import openai
from mlxd.http.dialects.responses_stream import About, ResponseWriter, output_of, response_of
from mlxd.http.problems import invalid
from mlxd.http.prompts import (
    Message,
    call_of,
    effort_thinks,
    flag,
    map_of,
    settled,
    text_in,
    unknown_notes,
)
from mlxd.http.routes import Call

SAMPLING = openai.SAMPLING - {"n", "stop", "schema", "json_schema", "guided_json"}
USED = SAMPLING | {
    "model", "input", "instructions", "stream", "max_output_tokens", "tools", "tool_choice",
    "parallel_tool_calls", "text", "reasoning", "top_logprobs", "previous_response_id",
    "conversation", "background", "prompt", *openai.NEUTRAL,
}  # fmt: skip
IGNORED = openai.IGNORED | {
    "include", "truncation", "stream_options", "max_tool_calls", "client_metadata",
    "context_management",
}  # fmt: skip
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "conversation": (),
    "background": (False,),
    "prompt": (),
}
SKIPPED_ITEMS = frozenset({"web_search_call", "file_search_call", "image_generation_call"})
"""Records of tools that OpenAI's servers ran. Their results are not in the input either."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


async def handle(call: Call) -> None:
    """Answer POST /v1/responses."""
    await answers.answer(call, plan(call.body))


async def handle_count(call: Call) -> None:
    """Answer POST /v1/responses/input_tokens."""
    asked = plan({**call.body, "stream": False}).params
    names = ("model", "messages", "tools", "tool_choice", "thinking", "template_kwargs")
    params = {name: asked[name] for name in names if name in asked}
    async with call.daemon.connect() as client:
        found = await client.request("tokenize", params)
    body = {"object": "response.input_tokens", "input_tokens": found["count"]}
    await call.exchange.reply_json(200, body)


def plan(body: dict[str, Any]) -> Plan:
    """Translate the body of a request."""
    if body.get("previous_response_id") is not None:
        raise invalid("previous_response_id", "mlxd stores no responses. Send the whole input")
    openai.refuse_unsupported(body, NEUTRAL)
    messages, notes = settled(messages_of(body))
    tools, tool_notes = openai.with_tools(body)
    text = map_of(body.get("text") or {}, "text")
    given = {name: value for name, value in body.items() if name in SAMPLING | {*openai.NEUTRAL}}
    params = {
        "model": body.get("model"),
        "messages": messages,
        **openai.sampling_of(given),
        **openai.format_of(text.get("format"), "text.format"),
        **tools,
    }
    if body.get("top_logprobs"):
        params["logprobs"] = body["top_logprobs"]
    reasoning = map_of(body.get("reasoning") or {}, "reasoning")
    if (thinking := effort_thinks(reasoning.get("effort"))) is not None:
        params["thinking"] = thinking
    params, own = answers.limited(params, body.get("max_output_tokens"))
    notes += [*tool_notes, *unknown_notes(body, USED, IGNORED)]
    about = about_of(body)
    writer = ResponseWriter(about) if flag(body, "stream") else None
    return Plan("chat", params, lambda result: whole(result, about), writer, tuple(notes), own)


def about_of(body: dict[str, Any]) -> About:
    """Return the fields of the request that every response repeats."""
    text = body.get("text") or {}
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": str(body.get("model") or ""),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }


# ---- input


def messages_of(body: dict[str, Any]) -> list[Message]:
    """Return the messages as the daemon takes them. Raises InvalidParams."""
    reader = _Reader()
    if instructions := text_in(body.get("instructions"), "instructions"):
        reader.add({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str):
        reader.add({"role": "user", "content": given})
    elif isinstance(given, list) and given:
        for index, raw in enumerate(given):
            reader.read(map_of(raw, f"input[{index}]"), f"input[{index}]")
    else:
        raise invalid("input", "must be text or a non-empty list of items")
    return reader.messages


class _Reader:
    """Joins the items of one answer, such as reasoning and calls, into one message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def add(self, message: Message) -> None:
        self.messages.append(message)

    def read(self, item: dict[str, Any], where: str) -> None:
        kind = item.get("type") or "message"
        if kind == "message":
            self._message(item, where)
        elif kind == "function_call":
            call = call_of(item.get("name"), item.get("arguments"), item.get("call_id"))
            answer = self._answer(closed_by_text=False)
            answer["tool_calls"] = [*answer.get("tool_calls", []), call]
        elif kind == "function_call_output":
            content = text_in(item.get("output"), f"{where}.output")
            call_id = str(item.get("call_id") or "")
            self.add({"role": "tool", "content": content, "tool_call_id": call_id})
        elif kind == "reasoning":
            texts = [*(item.get("summary") or []), *(item.get("content") or [])]
            if reasoning := text_in(texts, where):
                answer = self._answer(closed_by_text=True)
                answer["reasoning"] = answer.get("reasoning", "") + reasoning
        elif kind not in SKIPPED_ITEMS:
            raise invalid(f"{where}.type", f"mlxd has no items of the type {str(kind)[:40]}")

    def _message(self, item: dict[str, Any], where: str) -> None:
        role = ROLES.get(str(item.get("role")))
        if role is None:
            raise invalid(f"{where}.role", f"must be one of {', '.join(ROLES)}")
        text = text_in(item.get("content"), f"{where}.content")
        if role == "assistant":
            answer = self._answer(closed_by_text=True)
            answer["content"] += text
        else:
            self.add({"role": role, "content": text})

    def _answer(self, *, closed_by_text: bool) -> Message:
        """Return the last message if it is an answer that the item belongs to, or a new one."""
        last = self.messages[-1] if self.messages else {}
        is_open = last.get("role") == "assistant" and not (
            closed_by_text and (last["content"] or last.get("tool_calls"))
        )
        if not is_open:
            last = {"role": "assistant", "content": ""}
            self.add(last)
        return last


# ---- answers


def whole(result: Result, about: About) -> dict[str, Any]:
    """Return a response."""
    about = {**about, "model": about["model"] or result["applied"]["model"]}
    first = result["choices"][0]
    return response_of(about, openai.new_id("resp_"), openai.now(), output_of(first), result)
