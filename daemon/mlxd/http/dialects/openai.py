"""What OpenAI's endpoints share: sampling fields, tools, formats, usage and errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from mlxd.http.exchange import dump_json
from mlxd.http.problems import invalid, status_of, text_of
from mlxd.http.prompts import function_tool, list_of, map_of
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.version import VERSION

FINGERPRINT = f"mlxd-{VERSION}"

RENAMED = {
    "repeat_penalty": "repetition_penalty",  # llama.cpp
    "repeat_last_n": "repetition_context_size",
    "guided_json": "schema",  # vLLM
    "guided_regex": "regex",
    "json_schema": "schema",  # llama.cpp
    "chat_template_kwargs": "template_kwargs",
}
SAMPLING = frozenset({
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "presence_penalty",
    "frequency_penalty", "logit_bias", "repetition_penalty", "repetition_context_size",
    "min_tokens_to_keep", "xtc_probability", "xtc_threshold", "ignore_eos", "template_kwargs",
    "regex", "schema", "priority", "deadline_s", "supersede", "keep_alive_s", "adapter", "draft",
    *RENAMED,
})  # fmt: skip
"""Fields that the daemon has, under the same name or that of `RENAMED`."""

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "verbosity", "include_reasoning",
    "prediction", "cache_prompt", "id_slot", "n_keep", "timings_per_token", "return_progress",
    "separate_reasoning", "moderation",
})  # fmt: skip
"""Fields that do not change the answer."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "grammar": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "typical_p": (1, 1.0),
    "mirostat": (0,),
    "dry_multiplier": (0, 0.0),
    "dynatemp_range": (0, 0.0),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "structured_outputs": ({},),
    "chat_template": (),
    "stop_token_ids": ([],),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (False,),
    "top_a": (0, 0.0),
    "length_penalty": (1, 1.0),
}
"""Fields that would change the answer and that mlxd does not have, with values that do not."""


def new_id(prefix: str) -> str:
    """Return a new id."""
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    """Return the time in seconds since 1970."""
    return int(time.time())


def sampling_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the daemon's sampling parameters. Raises InvalidParams for fields it cannot honour."""
    refuse_unsupported(body, NEUTRAL)
    return {
        RENAMED.get(name, name): value
        for name, value in body.items()
        if name in SAMPLING and value is not None
    }


def refuse_unsupported(body: dict[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse fields that would change the answer and that mlxd does not have."""
    for name, values in neutral.items():
        value = body.get(name)
        if value is not None and value not in values:
            raise invalid(name, "mlxd does not have this function, which would change the answer")


def tools_of(body: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the functions of `tools` for the daemon, and a note for each other kind of tool.

    OpenAI's chat wraps a function in `function`. Its Responses do not.
    """
    tools: list[dict[str, Any]] = []
    notes: list[str] = []
    for index, raw in enumerate(list_of(body, "tools")):
        where = f"tools[{index}]"
        tool = map_of(raw, where)
        kind = tool.get("type", "function")
        if kind != "function":
            notes.append(f"ignored: {where} of the type {str(kind)[:40]}")
            continue
        about = map_of(tool["function"], f"{where}.function") if "function" in tool else tool
        tools.append(
            function_tool(
                about.get("name"), about.get("description"), about.get("parameters"), where
            )
        )
    return tools, notes


def with_tools(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the daemon's `tools` and `tool_choice`, and notes."""
    tools, notes = tools_of(body)
    if not tools:
        choice = body.get("tool_choice")
        if choice not in (None, "auto", "none") and not notes:
            raise invalid("tool_choice", "needs tools")
        return {}, notes
    params: dict[str, Any] = {"tools": tools}
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice = _named(choice, params)
    if choice is not None:
        params["tool_choice"] = choice
    if body.get("parallel_tool_calls") is False and choice in (None, "auto"):
        notes.append("parallel_tool_calls: the model decides how many calls it makes")
    return params, notes


def _named(choice: dict[str, Any], params: dict[str, Any]) -> Any:
    """Return the choice in an object: a function's name, or a mode for some of the tools."""
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        names = {_name(one) for one in list_of(map_of(allowed, "tool_choice"), "tools")}
        params["tools"] = [tool for tool in params["tools"] if tool["function"]["name"] in names]
        return allowed.get("mode", "auto")
    name = _name(choice)
    if not name:
        raise invalid("tool_choice", "must be none, auto, required or a function of tools")
    return name


def _name(choice: Any) -> str:
    inner = choice.get("function", choice) if isinstance(choice, dict) else {}
    return str(inner.get("name") or "") if isinstance(inner, dict) else ""


def format_of(given: Any, where: str) -> dict[str, Any]:
    """Return the constraint of a `response_format`, or of `text.format` in Responses."""
    if given is None:
        return {}
    about = map_of(given, where)
    kind = about.get("type")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"schema": {"type": "object"}}
    if kind == "json_schema":
        schema = about.get("json_schema", about)
        found = schema.get("schema") if isinstance(schema, dict) else None
        if not isinstance(found, (dict, bool)):
            raise invalid(f"{where}.json_schema.schema", "must be a JSON Schema")
        return {"schema": found}
    raise invalid(f"{where}.type", "must be text, json_object or json_schema")


def usage_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the usage of a chat completion or completion."""
    usage = result.get("usage") or {}
    prompt, answer = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": usage.get("cached_tokens", 0)},
        "completion_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
    }


TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "service_unavailable_error",
}
CODES = {
    "context_overflow": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
}
"""Codes that differ from the daemon's: client libraries and agents compare them."""


def error_object(error: MlxdError) -> dict[str, Any]:
    """Return the object that describes an error."""
    status = status_of(error)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "message": text_of(error),
        "type": kind,
        "param": error.data.get("param") or None,
        "code": CODES.get(error.code, error.code),
    }


def error_body(error: MlxdError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    return status_of(error), {"error": error_object(error)}


def sse(value: Any) -> bytes:
    """Return one server-sent event without a name."""
    return b"data: " + dump_json(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
