"""Events and results as the daemon sends them, for tests of the dialects."""

from __future__ import annotations

from typing import Any


def delta(text: str, index: int = 0, channel: str = "answer", **more: Any) -> dict[str, Any]:
    return {"type": "delta", "index": index, "text": text, "channel": channel, **more}


def called(name: str, index: int = 0, **arguments: Any) -> dict[str, Any]:
    more = {"call_id": "call_0_0", "name": name, "arguments": arguments}
    return {"type": "tool_call", "index": index, **more}


PREFILL = {"type": "prefill", "done": 11, "total": 11}


def choice(text: str = "", index: int = 0, finish: str = "stop", **more: Any) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "reasoning": "",
        "tool_calls": [],
        "finish_reason": finish,
        **more,
    }


def result(*choices: dict[str, Any], notes: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "choices": [*choices],
        "usage": {
            "prompt_tokens": 11,
            "cached_tokens": 4,
            "completion_tokens": 7,
            "reasoning_tokens": 2,
        },
        "timing": {
            "queue_s": 0.5,
            "load_s": 0.25,
            "prefill_s": 0.125,
            "decode_s": 1.0,
            "time_to_first_token_s": 0.7,
            "tokens_per_s": 7.0,
        },
        "applied": {"model": "pocket", "notes": [*notes]},
    }


CALL = {"id": "call_0_0", "name": "get_weather", "arguments": {"city": "Paris"}}
