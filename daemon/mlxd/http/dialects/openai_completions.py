"""OpenAI's legacy completions: text without a chat template, and filling in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Event, Plan, Result
from mlxd.http.dialects import openai
from mlxd.http.problems import invalid
from mlxd.http.prompts import flag, map_of, unknown_notes
from mlxd.http.routes import Call
from mlxd.protocol.errors import MlxdError

USED = openai.SAMPLING | {
    "model", "prompt", "suffix", "stream", "stream_options", "max_tokens", "logprobs", "echo",
    "response_format", *openai.NEUTRAL,
}  # fmt: skip
PROMPTS_MAX = 64


async def handle(call: Call) -> None:
    """Answer POST /v1/completions."""
    plans = [plan(call.body, prompt) for prompt in prompts_of(call.body)]
    if len(plans) == 1:
        await answers.answer(call, plans[0])
        return
    if plans[0].writer is not None:
        raise invalid("prompt", "a stream has one prompt")
    async with call.daemon.connect() as client:
        asked = [client.request(one.method, one.params) for one in plans]
        results = await asyncio.gather(*asked)
    await call.exchange.reply_json(
        200, joined(results, plans), answers.note_headers(plans[0].notes)
    )


def prompts_of(body: dict[str, Any]) -> list[str | list[int]]:
    """Return the prompts: one text or list of token ids, or several of them."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise invalid("prompt", "must be text, token ids, or a list of them")
    if all(isinstance(one, int) for one in prompt):
        return [prompt]
    if len(prompt) > PROMPTS_MAX:
        raise invalid("prompt", f"must have at most {PROMPTS_MAX} entries")
    return prompt


def plan(body: dict[str, Any], prompt: str | list[int]) -> Plan:
    """Translate the body of a request for one of its prompts."""
    echoed = _echoed(body, prompt)
    params = {
        "model": body.get("model"),
        **_prompt(body, prompt),
        **openai.sampling_of(body),
        **openai.format_of(body.get("response_format"), "response_format"),
    }
    if body.get("logprobs") is not None:
        params["logprobs"] = body["logprobs"]
    params, own = answers.limited(params, body.get("max_tokens"))
    model = str(body.get("model") or "")
    writer = None
    if flag(body, "stream"):
        options = map_of(body.get("stream_options") or {}, "stream_options")
        writer = TextWriter(model, echoed, include_usage=flag(options, "include_usage"))
    notes = unknown_notes(body, USED, openai.IGNORED)
    method = "fill" if "prefix" in params else "generate"
    return Plan(
        method, params, lambda result: whole(result, model, echoed), writer, tuple(notes), own
    )


def _prompt(body: dict[str, Any], prompt: str | list[int]) -> dict[str, Any]:
    suffix = body.get("suffix")
    if not suffix:
        return {"prompt": prompt}
    if not isinstance(prompt, str) or not isinstance(suffix, str):
        raise invalid("suffix", "needs a prompt and a suffix that are text")
    return {"prefix": prompt, "suffix": suffix}


def _echoed(body: dict[str, Any], prompt: str | list[int]) -> str:
    if not flag(body, "echo"):
        return ""
    if not isinstance(prompt, str):
        raise invalid("echo", "needs a prompt that is text")
    if body.get("logprobs") is not None:
        raise invalid("echo", "cannot be combined with logprobs")
    return prompt


def joined(results: list[Result], plans: list[Plan]) -> dict[str, Any]:
    """Return one completion for several prompts. Choices are numbered through."""
    parts = [one.whole(result) for one, result in zip(plans, results, strict=True)]
    choices = [choice for part in parts for choice in part["choices"]]
    usage: dict[str, Any] = {}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        usage[name] = sum(part["usage"][name] for part in parts)
    numbered = [{**choice, "index": index} for index, choice in enumerate(choices)]
    return {**parts[0], "choices": numbered, "usage": usage}


def whole(result: Result, model: str, echoed: str) -> dict[str, Any]:
    """Return a completion."""
    choices = [
        {
            "index": one["index"],
            "text": echoed + one["text"],
            "logprobs": logprobs(one.get("logprobs"), 0),
            "finish_reason": one["finish_reason"],
        }
        for one in result["choices"]
    ]
    return {
        "id": openai.new_id("cmpl-"),
        "object": "text_completion",
        "created": openai.now(),
        "model": model or result["applied"]["model"],
        "system_fingerprint": openai.FINGERPRINT,
        "choices": choices,
        "usage": openai.usage_of(result),
    }


def logprobs(given: list[dict[str, Any]] | None, offset: int) -> dict[str, Any] | None:
    """Return log-probabilities in the form of completions. `offset` is that of the first text."""
    if given is None:
        return None
    offsets = []
    for one in given:
        offsets.append(offset)
        offset += len(one["text"])
    return {
        "tokens": [one["text"] for one in given],
        "token_logprobs": [one["logprob"] for one in given],
        "top_logprobs": [
            {top["text"]: top["logprob"] for top in one.get("top") or []} for one in given
        ],
        "text_offset": offsets,
    }


class TextWriter:
    """Writes the chunks of a completion."""

    content_type = "text/event-stream"

    def __init__(self, model: str, echoed: str, *, include_usage: bool) -> None:
        self._about = {
            "id": openai.new_id("cmpl-"),
            "object": "text_completion",
            "created": openai.now(),
            "model": model,
            "system_fingerprint": openai.FINGERPRINT,
        }
        self._echoed = echoed
        self._include_usage = include_usage
        self._lengths: dict[int, int] = {}

    def event(self, event: Event) -> bytes:
        if event["type"] != "delta":
            return b""
        index, text = event["index"], event["text"]
        offset = self._lengths.get(index, 0)
        first = self._echoed if index not in self._lengths else ""
        self._lengths[index] = offset + len(text)
        return self._chunk(index, first + text, None, logprobs(event.get("logprobs"), offset))

    def alive(self) -> bytes:
        return self._chunk(0, "", None, None)

    def end(self, result: Result) -> bytes:
        chunks = []
        for one in result["choices"]:
            text = "" if one["index"] in self._lengths else self._echoed
            chunks.append(self._chunk(one["index"], text, one["finish_reason"], None))
        if self._include_usage:
            last = {**self._about, "choices": [], "usage": openai.usage_of(result)}
            chunks.append(openai.sse(last))
        return b"".join(chunks) + openai.DONE

    def fail(self, error: MlxdError) -> bytes:
        return openai.sse({"error": openai.error_object(error)}) + openai.DONE

    def _chunk(
        self, index: int, text: str, finish_reason: str | None, chances: dict[str, Any] | None
    ) -> bytes:
        choice = {
            "index": index,
            "text": text,
            "logprobs": chances,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._include_usage else {}
        return openai.sse({**self._about, "choices": [choice], **usage})
