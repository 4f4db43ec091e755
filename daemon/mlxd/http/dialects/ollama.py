"""Ollama's chat and generate: requests, whole answers and streams. `ollama_models` has the rest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlxd.http import answers
from mlxd.http.answers import Event, Plan, Result
from mlxd.http.dialects import openai
from mlxd.http.dialects.openai_chat import logprobs
from mlxd.http.exchange import dump_json
from mlxd.http.problems import invalid, status_of, text_of
from mlxd.http.prompts import (
    Message,
    call_of,
    effort_thinks,
    flag,
    list_of,
    map_of,
    settled,
    system_first,
    text_in,
    unknown_notes,
)
from mlxd.http.routes import Call
from mlxd.protocol import durations
from mlxd.protocol.errors import MlxdError

OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repetition_context_size",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Options that the daemon has."""
IGNORED_OPTIONS = frozenset({
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "vocab_only", "use_mmap",
    "use_mlock", "num_thread", "numa", "num_keep", "penalize_newline", "logits_all",
    "embedding_only", "mirostat_tau", "mirostat_eta", "num_predict", "draft_num_predict",
})  # fmt: skip
"""Options that do not change the answer here. The context is always that of the model."""
NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "tfs_z": (1, 1.0),
    "typical_p": (1, 1.0),
}
USED = frozenset({
    "model", "name", "messages", "prompt", "suffix", "system", "raw", "tools", "format", "options",
    "stream", "keep_alive", "think", "logprobs", "top_logprobs", "template", "context", "images",
})  # fmt: skip
IGNORED = frozenset({"truncate", "shift", "width", "height", "steps"})
NEUTRAL: dict[str, tuple[Any, ...]] = {"template": ("",), "context": ([],), "images": ([],)}

ROLES = frozenset({"system", "user", "assistant", "tool"})
FOREVER_S = -1.0


async def handle_chat(call: Call) -> None:
    """Answer POST /api/chat. Without messages it loads or unloads the model."""
    if not call.body.get("messages"):
        await _load(call, {"message": {"role": "assistant", "content": ""}})
        return
    await answers.answer(call, plan_chat(call.body))


async def handle_generate(call: Call) -> None:
    """Answer POST /api/generate. Without a prompt it loads or unloads the model."""
    if not call.body.get("prompt") and not call.body.get("suffix"):
        await _load(call, {"response": ""})
        return
    await answers.answer(call, plan_generate(call.body))


async def _load(call: Call, empty: dict[str, Any]) -> None:
    keep_alive_s = keep_alive_of(call.body.get("keep_alive"))
    model = model_of(call.body)
    async with call.daemon.connect() as client:
        if keep_alive_s == 0:
            await client.request("unload", {"model": model})
        else:
            await client.request("load", {"model": model, "keep_alive_s": keep_alive_s})
    reason = "unload" if keep_alive_s == 0 else "load"
    about = {"model": call.body.get("model"), "created_at": timestamp()}
    await call.exchange.reply_json(200, {**about, **empty, "done": True, "done_reason": reason})


# ---- requests


def model_of(body: dict[str, Any]) -> str:
    """Return the model. Its tag `latest` means nothing here. Raises InvalidParams."""
    name = body.get("model") or body.get("name")
    if not isinstance(name, str) or not name:
        raise invalid("model", "is required")
    return name.removesuffix(":latest")


def plan_chat(body: dict[str, Any]) -> Plan:
    """Translate the body of a chat."""
    messages, notes = settled(messages_of(body))
    tools, tool_notes = openai.with_tools({"tools": body.get("tools")})
    params = {"messages": messages, **tools}
    return _plan("chat", body, params, (*notes, *tool_notes), "message")


def plan_generate(body: dict[str, Any]) -> Plan:
    """Translate the body of a completion: raw, with a suffix, or with the chat template."""
    prompt, suffix = body.get("prompt") or "", body.get("suffix") or ""
    for name, value in (("prompt", prompt), ("suffix", suffix)):
        if not isinstance(value, str):
            raise invalid(name, "must be a string")
    if suffix:
        return _plan("fill", body, {"prefix": prompt, "suffix": suffix}, (), "response")
    if flag(body, "raw"):
        return _plan("generate", body, {"prompt": prompt}, (), "response")
    system = text_in(body.get("system"), "system")
    messages = system_first(system, [{"role": "user", "content": prompt}])
    return _plan("chat", body, {"messages": messages}, (), "response")


def _plan(
    method: str, body: dict[str, Any], params: dict[str, Any], notes: tuple[str, ...], field: str
) -> Plan:
    openai.refuse_unsupported(body, NEUTRAL)
    options = map_of(body.get("options") or {}, "options")
    params = {
        "model": model_of(body),
        **params,
        **_sampling(options),
        **_format(body.get("format")),
    }
    if flag(body, "logprobs"):
        params["logprobs"] = body.get("top_logprobs") or 0
    if body.get("keep_alive") is not None:
        params["keep_alive_s"] = keep_alive_of(body["keep_alive"])
    if method == "chat" and (thinking := _thinking(body.get("think"))) is not None:
        params["thinking"] = thinking
    params, own = answers.limited(params, _limit(options))
    unknown = unknown_notes(body, USED, IGNORED)
    unknown += unknown_notes(options, frozenset({*OPTIONS, *NEUTRAL_OPTIONS}), IGNORED_OPTIONS)
    model = str(body.get("model") or body.get("name"))
    writer = LineWriter(model, field) if flag(body, "stream", default=True) else None
    return Plan(
        method,
        params,
        lambda result: whole(result, model, field),
        writer,
        (*notes, *unknown),
        own,
    )


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    openai.refuse_unsupported(options, NEUTRAL_OPTIONS)
    found = {ours: options[name] for name, ours in OPTIONS.items() if options.get(name) is not None}
    last_n = found.get("repetition_context_size")
    if last_n == 0:  # off in Ollama
        del found["repetition_context_size"]
        found.pop("repetition_penalty", None)
    elif last_n == -1:  # the whole context
        found["repetition_context_size"] = 1 << 20
    return found


def _limit(options: dict[str, Any]) -> Any:
    limit = options.get("num_predict")
    return None if isinstance(limit, int) and limit < 0 else limit  # -1: no limit


def _format(given: Any) -> dict[str, Any]:
    if given is None or given == "":
        return {}
    if given == "json":
        return {"schema": {"type": "object"}}
    if isinstance(given, dict):
        return {"schema": given}
    raise invalid("format", 'must be "json" or a JSON Schema')


def _thinking(given: Any) -> bool | None:
    return given if isinstance(given, bool) else effort_thinks(given)


def keep_alive_of(given: Any) -> float | None:
    """Return seconds. Negative numbers mean forever. Raises InvalidParams."""
    if given is None:
        return None
    if isinstance(given, str):
        if given.strip().startswith("-"):
            return FOREVER_S
        try:
            return durations.seconds(given)
        except ValueError as exc:
            raise invalid("keep_alive", str(exc)) from None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise invalid("keep_alive", "must be a number of seconds, or a duration such as 5m")
    return FOREVER_S if given < 0 else float(given)


def messages_of(body: dict[str, Any]) -> list[Message]:
    """Return the messages as the daemon takes them. Raises InvalidParams."""
    return [
        _message(map_of(one, f"messages[{index}]"), f"messages[{index}]")
        for index, one in enumerate(list_of(body, "messages"))
    ]


def _message(one: dict[str, Any], where: str) -> Message:
    role = one.get("role")
    if role not in ROLES:
        raise invalid(f"{where}.role", f"must be one of {', '.join(sorted(ROLES))}")
    if one.get("images"):
        raise invalid(f"{where}.images", "mlxd reads text only")
    out: Message = {"role": role, "content": text_in(one.get("content"), f"{where}.content")}
    if isinstance(one.get("tool_name"), str) and role == "tool":
        out["name"] = one["tool_name"]
    if role == "assistant":
        if isinstance(one.get("thinking"), str) and one["thinking"]:
            out["reasoning"] = one["thinking"]
        calls = [map_of(raw, f"{where}.tool_calls") for raw in list_of(one, "tool_calls")]
        if calls:
            out["tool_calls"] = [_call(raw, f"{where}.tool_calls") for raw in calls]
    return out


def _call(raw: dict[str, Any], where: str) -> dict[str, Any]:
    function = map_of(raw.get("function"), f"{where}.function")
    return call_of(function.get("name"), function.get("arguments"), raw.get("id"))


# ---- answers


def timestamp(seconds: float | None = None) -> str:
    """Return a time as Ollama writes it. None: now."""
    when = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _content(
    field: str, text: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    if field == "response":
        return {"response": text, **({"thinking": thinking} if thinking else {})}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": openai.new_id("call_"), "function": function}


def _end(result: Result) -> dict[str, Any]:
    """Return the last fields. Durations are in nanoseconds."""
    usage, timing = result["usage"], result["timing"]
    spans = {
        "load_duration": timing["load_s"],
        "prompt_eval_duration": timing["prefill_s"],
        "eval_duration": timing["decode_s"],
    }
    total_s = sum(spans.values()) + timing["queue_s"]
    reason = result["choices"][0]["finish_reason"]
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": int(total_s * 1e9),
        **{name: int(seconds * 1e9) for name, seconds in spans.items()},
        "prompt_eval_count": usage["prompt_tokens"],
        "eval_count": usage["completion_tokens"],
    }


def whole(result: Result, model: str, field: str) -> dict[str, Any]:
    """Return a whole answer."""
    first = result["choices"][0]
    calls = [_tool_call(call) for call in first["tool_calls"]]
    chances = logprobs(first.get("logprobs"))
    return {
        "model": model,
        "created_at": timestamp(),
        **_content(field, first["text"], first["reasoning"], calls),
        **({"logprobs": chances["content"]} if chances else {}),
        **_end(result),
    }


class LineWriter:
    """Writes one JSON object per line."""

    content_type = "application/x-ndjson"

    def __init__(self, model: str, field: str) -> None:
        self._model = model
        self._field = field

    def event(self, event: Event) -> bytes:
        if event.get("index", 0) != 0:
            return b""
        if event["type"] == "delta":
            chances = logprobs(event.get("logprobs"))
            more = {"logprobs": chances["content"]} if chances else {}
            if event["channel"] == "reasoning":
                return self._line(_content(self._field, thinking=event["text"]), more)
            return self._line(_content(self._field, event["text"]), more)
        if event["type"] == "tool_call":
            return self._line(_content(self._field, calls=[_tool_call(event)]), {})
        return b""

    def alive(self) -> bytes:
        return self._line(_content(self._field), {})

    def end(self, result: Result) -> bytes:
        return self._line(_content(self._field), _end(result))

    def fail(self, error: MlxdError) -> bytes:
        return dump_json({"error": text_of(error)}) + b"\n"

    def _line(self, content: dict[str, Any], more: dict[str, Any]) -> bytes:
        about = {"model": self._model, "created_at": timestamp()}
        return dump_json({**about, **content, "done": False, **more}) + b"\n"


def error_body(error: MlxdError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    return status_of(error), {"error": text_of(error)}
