"""Paths of llama.cpp's server: tokens, templates, filling in the middle, and its state."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Event, Plan, Result
from mlxd.http.capabilities import template_of
from mlxd.http.dialects import openai, openai_chat
from mlxd.http.problems import invalid
from mlxd.http.prompts import flag, list_of, map_of, settled, unknown_notes
from mlxd.http.routes import Call
from mlxd.protocol.errors import MlxdError

USED = openai.SAMPLING | {
    "model", "input_prefix", "input_suffix", "input_extra", "prompt", "n_predict", "stream",
    *openai.NEUTRAL,
}  # fmt: skip
IGNORED = openai.IGNORED | {
    "samplers", "n_indent", "t_max_prompt_ms", "t_max_predict_ms", "response_fields", "n_cmpl",
}  # fmt: skip
STOP_TYPES = {"length": "limit"}


async def handle_tokenize(call: Call) -> None:
    """Answer POST /tokenize."""
    content = call.body.get("content", "")
    if not isinstance(content, str):
        raise invalid("content", "must be a string")
    tokens: list[Any] = []
    async with call.daemon.connect() as client:
        params = {"model": call.body.get("model"), "text": content}
        if content:
            tokens = (await client.request("tokenize", params))["tokens"]
        if flag(call.body, "with_pieces"):
            asked = [
                client.request("detokenize", {"model": params["model"], "tokens": [one]})
                for one in tokens
            ]
            pieces = await asyncio.gather(*asked)
            tokens = [
                {"id": one, "piece": piece["text"]}
                for one, piece in zip(tokens, pieces, strict=True)
            ]
    await call.exchange.reply_json(200, {"tokens": tokens})


async def handle_detokenize(call: Call) -> None:
    """Answer POST /detokenize."""
    params = {"model": call.body.get("model"), "tokens": list_of(call.body, "tokens")}
    async with call.daemon.connect() as client:
        found = await client.request("detokenize", params)
    await call.exchange.reply_json(200, {"content": found["text"]})


async def handle_apply_template(call: Call) -> None:
    """Answer POST /apply-template: the text of the prompt."""
    messages, _ = settled(openai_chat.messages_of(call.body))
    tools, _ = openai.with_tools(call.body)
    model = call.body.get("model")
    async with call.daemon.connect() as client:
        params = {"model": model, "messages": messages, **tools}
        tokens = (await client.request("tokenize", params))["tokens"]
        found = await client.request("detokenize", {"model": model, "tokens": tokens})
    await call.exchange.reply_json(200, {"prompt": found["text"]})


async def handle_props(call: Call) -> None:
    """Answer GET /props: about the default model."""
    async with call.daemon.connect() as client:
        record = await client.request("models.show")
    template = await asyncio.to_thread(template_of, Path(record.get("path") or "/nowhere"))
    await call.exchange.reply_json(
        200,
        {
            "default_generation_settings": {"n_ctx": record.get("context_tokens"), "params": {}},
            "total_slots": 1,
            "model_alias": record["name"],
            "model_path": record["path"],
            "chat_template": template,
            "modalities": {"vision": False, "audio": False},
            "build_info": openai.FINGERPRINT,
        },
    )


async def handle_slots(call: Call) -> None:
    """Answer GET /slots: one for each loaded model."""
    async with call.daemon.connect() as client:
        loaded = (await client.request("ps"))["models"]
    slots = [
        {
            "id": index,
            "model": one["model"],
            "n_ctx": one.get("context_tokens"),
            "is_processing": one["requests"] > 0,
        }
        for index, one in enumerate(loaded)
    ]
    await call.exchange.reply_json(200, slots)


async def handle_infill(call: Call) -> None:
    """Answer POST /infill."""
    await answers.answer(call, plan(call.body))


def plan(body: dict[str, Any]) -> Plan:
    """Translate the body of a request to fill in the middle."""
    texts = {name: body.get(name) or "" for name in ("input_prefix", "prompt", "input_suffix")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise invalid(name, "must be a string")
    params = {
        "model": body.get("model"),
        "prefix": _extra(body) + texts["input_prefix"] + texts["prompt"],
        "suffix": texts["input_suffix"],
        **openai.sampling_of(body),
    }
    limit = body.get("n_predict")
    params, own = answers.limited(params, None if limit == -1 else limit)
    notes = unknown_notes(body, USED, IGNORED)
    model = str(body.get("model") or "")
    writer = InfillWriter(model) if flag(body, "stream") else None
    return Plan("fill", params, lambda result: whole(result, model), writer, tuple(notes), own)


def _extra(body: dict[str, Any]) -> str:
    """Return the texts of other files, which come before the prefix."""
    texts = []
    for index, raw in enumerate(list_of(body, "input_extra")):
        one = map_of(raw, f"input_extra[{index}]")
        texts.append(f"{one.get('filename') or ''}\n{one.get('text') or ''}\n")
    return "".join(texts)


def whole(result: Result, model: str) -> dict[str, Any]:
    """Return a whole answer."""
    first = result["choices"][0]
    return {**_last(result, model), "content": first["text"]}


def _last(result: Result, model: str) -> dict[str, Any]:
    usage, timing = result["usage"], result["timing"]
    computed = usage["prompt_tokens"] - usage["cached_tokens"]
    return {
        "index": 0,
        "content": "",
        "stop": True,
        "model": model or result["applied"]["model"],
        "tokens_predicted": usage["completion_tokens"],
        "tokens_evaluated": usage["prompt_tokens"],
        "tokens_cached": usage["cached_tokens"],
        "truncated": False,
        "stop_type": STOP_TYPES.get(result["choices"][0]["finish_reason"], "eos"),
        "timings": {
            "cache_n": usage["cached_tokens"],
            "prompt_n": computed,
            "prompt_ms": timing["prefill_s"] * 1000,
            "predicted_n": usage["completion_tokens"],
            "predicted_ms": timing["decode_s"] * 1000,
            "predicted_per_second": timing["tokens_per_s"],
        },
    }


class InfillWriter:
    """Writes the pieces of a text."""

    content_type = "text/event-stream"

    def __init__(self, model: str) -> None:
        self._model = model

    def event(self, event: Event) -> bytes:
        if event["type"] != "delta" or event["index"] != 0:
            return b""
        return openai.sse({"index": 0, "content": event["text"], "stop": False})

    def alive(self) -> bytes:
        return openai.sse({"index": 0, "content": "", "stop": False})

    def end(self, result: Result) -> bytes:
        return openai.sse(_last(result, self._model))

    def fail(self, error: MlxdError) -> bytes:
        return openai.sse({"error": openai.error_object(error)})
