"""The streams and objects of OpenAI's Responses."""

from __future__ import annotations

from typing import Any

from mlxd.http.answers import Event, Result
from mlxd.http.dialects import openai
from mlxd.http.exchange import dump_json
from mlxd.http.problems import text_of
from mlxd.protocol.errors import MlxdError

About = dict[str, Any]
Item = dict[str, Any]


def usage_of(result: Result) -> dict[str, Any]:
    """Return the usage of a response."""
    usage = openai.usage_of(result)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
    }


def response_of(
    about: About, response_id: str, created: int, output: list[Item], result: Result | None
) -> dict[str, Any]:
    """Return a response. Without a result it is in progress."""
    cut = result is not None and result["choices"][0]["finish_reason"] == "length"
    status = "in_progress" if result is None else "incomplete" if cut else "completed"
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "completed_at": openai.now() if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        **about,
        "output": output,
        "usage": None if result is None else usage_of(result),
    }


def output_of(choice: dict[str, Any]) -> list[Item]:
    """Return the items of a whole answer."""
    items: list[Item] = []
    if choice["reasoning"]:
        items.append(reasoning_item(openai.new_id("rs_"), choice["reasoning"]))
    if choice["text"]:
        items.append(message_item(openai.new_id("msg_"), choice["text"]))
    for call in choice["tool_calls"]:
        items.append(call_item(call["name"], call["arguments"]))
    return items


def reasoning_item(item_id: str, text: str) -> Item:
    """Return a reasoning item."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content}


def message_item(item_id: str, text: str) -> Item:
    """Return a message. It is whole, because an item in a stream begins without a text."""
    content = [text_part(text)] if text else []
    status = "completed" if text else "in_progress"
    about = {"id": item_id, "type": "message", "role": "assistant"}
    return {**about, "status": status, "content": content}


def text_part(text: str) -> dict[str, Any]:
    """Return the part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(name: str, arguments: Any) -> Item:
    """Return a function call."""
    return {
        "id": openai.new_id("fc_"),
        "type": "function_call",
        "call_id": openai.new_id("call_"),
        "name": name,
        "arguments": dump_json(arguments).decode(),
        "status": "completed",
    }


class ResponseWriter:
    """Writes the events of a response. All are numbered."""

    content_type = "text/event-stream"

    def __init__(self, about: About) -> None:
        self._about = about
        self._id = openai.new_id("resp_")
        self._created = openai.now()
        self._sequence = 0
        self._begun = False
        self._output: list[Item] = []
        self._open: str | None = None
        """The channel of the open item: `answer` or `reasoning`."""
        self._item_id = ""
        self._text = ""

    def event(self, event: Event) -> bytes:
        if event["type"] == "delta" and event["index"] == 0:
            return self._begin() + self._delta(event["channel"], event["text"])
        if event["type"] == "tool_call" and event["index"] == 0:
            return self._begin() + self._close() + self._call(event)
        return b""

    def alive(self) -> bytes:
        if not self._begun:
            return self._begin()
        # Codex does not take comments for a sign of life.
        return self._send("response.in_progress", response=self._response(None))

    def end(self, result: Result) -> bytes:
        opened = self._begin() + self._close()
        response = self._response(result)
        return opened + self._send(f"response.{response['status']}", response=response)

    def fail(self, error: MlxdError) -> bytes:
        code = openai.CODES.get(error.code, error.code)
        failed = {"status": "failed", "error": {"code": code, "message": text_of(error)}}
        response = {**self._response(None), **failed}
        return self._begin() + self._send("response.failed", response=response)

    def _response(self, result: Result | None) -> dict[str, Any]:
        return response_of(self._about, self._id, self._created, [*self._output], result)

    def _send(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + dump_json(value) + b"\n\n"

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        response = self._response(None)
        created = self._send("response.created", response=response)
        return created + self._send("response.in_progress", response=response)

    # ---- items of text

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": len(self._output), "content_index": 0}

    def _item(self, text: str) -> tuple[Item, dict[str, Any]]:
        """Return the open item and its part, with this text."""
        if self._open == "reasoning":
            return reasoning_item(self._item_id, text), {"type": "reasoning_text", "text": text}
        return message_item(self._item_id, text), text_part(text)

    def _delta(self, channel: str, text: str) -> bytes:
        out = b""
        if self._open != channel:
            out = self._close()
            self._open, self._text = channel, ""
            self._item_id = openai.new_id("rs_" if channel == "reasoning" else "msg_")
            item, part = self._item("")
            out += self._send(
                "response.output_item.added", output_index=len(self._output), item=item
            )
            out += self._send("response.content_part.added", **self._place(), part=part)
        self._text += text
        if channel == "reasoning":
            return out + self._send("response.reasoning_text.delta", **self._place(), delta=text)
        place = self._place()
        return out + self._send("response.output_text.delta", **place, delta=text, logprobs=[])

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        item, part = self._item(self._text)
        if self._open == "reasoning":
            done = self._send("response.reasoning_text.done", **self._place(), text=self._text)
        else:
            place = self._place()
            done = self._send("response.output_text.done", **place, text=self._text, logprobs=[])
        done += self._send("response.content_part.done", **self._place(), part=part)
        done += self._send("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return done

    def _call(self, event: Event) -> bytes:
        item = call_item(event["name"], event["arguments"])
        index = len(self._output)
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        self._output.append(item)
        arguments = item["arguments"]
        kind = "response.function_call_arguments"
        return (
            self._send("response.output_item.added", output_index=index, item=begun)
            + self._send(f"{kind}.delta", **place, delta=arguments)
            + self._send(f"{kind}.done", **place, name=item["name"], arguments=arguments)
            + self._send("response.output_item.done", output_index=index, item=item)
        )
