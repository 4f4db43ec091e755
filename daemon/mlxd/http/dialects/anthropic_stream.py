"""Anthropic's streams, usage and errors."""

from __future__ import annotations

from typing import Any

from mlxd.http.answers import Event, Result
from mlxd.http.dialects import openai
from mlxd.http.exchange import dump_json
from mlxd.http.problems import status_of, text_of
from mlxd.protocol.errors import MlxdError

SIGNATURE = "bWx4ZA=="
"""Proves the origin of a thinking block to Anthropic. Here clients only need one to send back."""

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    499: "invalid_request_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def stop_reason(finish_reason: str) -> str:
    """Return Anthropic's name of a finish reason."""
    return STOP_REASONS.get(finish_reason, "end_turn")


def usage_of(result: Result) -> dict[str, Any]:
    """Return the usage. Anthropic does not count cached tokens as input tokens."""
    usage = result.get("usage") or {}
    cached = usage.get("cached_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens", 0),
    }


def error_object(error: MlxdError) -> dict[str, Any]:
    """Return the object that describes an error."""
    status = _status(error)
    return {
        "type": "error",
        "error": {"type": TYPES.get(status, "api_error"), "message": _text(error)},
    }


def error_body(error: MlxdError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error."""
    return _status(error), error_object(error)


def _status(error: MlxdError) -> int:
    return 529 if error.code == "overloaded" else status_of(error)


def _text(error: MlxdError) -> str:
    tokens, limit = error.data.get("prompt_tokens"), error.data.get("context_tokens")
    if error.code == "context_overflow" and tokens and limit:
        # Claude Code compacts the conversation if it reads exactly these words.
        return f"prompt is too long: {tokens} tokens > {limit} maximum"
    return text_of(error)


def sse(name: str, value: dict[str, Any]) -> bytes:
    """Return a server-sent event. The data has the name too."""
    data = dump_json({"type": name, **value})
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class MessageWriter:
    """Writes the events of a message, block after block."""

    content_type = "text/event-stream"

    def __init__(self, model: str) -> None:
        self._model = model
        self._prompt_tokens = 0
        self._begun = False
        self._block: str | None = None
        """The type of the open block."""
        self._index = -1

    def event(self, event: Event) -> bytes:
        kind = event["type"]
        if kind == "prefill":
            # Known before the first token, so the message begins with the true number.
            self._prompt_tokens = event["total"]
            return self._begin()
        if kind == "delta" and event["index"] == 0:
            return self._begin() + self._text(event)
        if kind == "tool_call" and event["index"] == 0:
            return self._begin() + self._call(event)
        return b""

    def alive(self) -> bytes:
        # Before the message begins, too: its first event must have the number of input tokens.
        return sse("ping", {})

    def end(self, result: Result) -> bytes:
        if not self._begun:
            self._prompt_tokens = (result.get("usage") or {}).get("prompt_tokens", 0)
        reason = stop_reason(result["choices"][0]["finish_reason"])
        delta = {"stop_reason": reason, "stop_sequence": None}
        return (
            self._begin()
            + self._close()
            + sse("message_delta", {"delta": delta, "usage": usage_of(result)})
            + sse("message_stop", {})
        )

    def fail(self, error: MlxdError) -> bytes:
        return sse("error", error_object(error))

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        usage = {"prompt_tokens": self._prompt_tokens}
        message: dict[str, Any] = {
            "id": openai.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of({"usage": usage}),
        }
        return sse("message_start", {"message": message}) + sse("ping", {})

    def _text(self, event: Event) -> bytes:
        if event["channel"] == "reasoning":
            opened = self._open("thinking", {"thinking": "", "signature": ""})
            return opened + self._delta("thinking_delta", thinking=event["text"])
        opened = self._open("text", {"text": ""})
        return opened + self._delta("text_delta", text=event["text"])

    def _call(self, event: Event) -> bytes:
        closed = self._close()  # two calls are two blocks
        block = {"id": openai.new_id("toolu_"), "name": event["name"], "input": {}}
        arguments = dump_json(event["arguments"]).decode()
        return (
            closed
            + self._open("tool_use", block)
            + self._delta("input_json_delta", partial_json=arguments)
            + self._close()
        )

    def _open(self, kind: str, content: dict[str, Any]) -> bytes:
        if self._block == kind:
            return b""
        closed = self._close()
        self._block = kind
        self._index += 1
        block = {"index": self._index, "content_block": {"type": kind, **content}}
        return closed + sse("content_block_start", block)

    def _delta(self, kind: str, **content: Any) -> bytes:
        delta = {"index": self._index, "delta": {"type": kind, **content}}
        return sse("content_block_delta", delta)

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        signed = b""
        if self._block == "thinking":
            signed = self._delta("signature_delta", signature=SIGNATURE)
        self._block = None
        return signed + sse("content_block_stop", {"index": self._index})
