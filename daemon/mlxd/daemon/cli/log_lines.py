"""Formats lines of the daemon's log for people. Lines in, text out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from mlxd.daemon.cli.units import duration, quantity, spaced, visible
from mlxd.protocol.wrapping import wrapped

LEVELS = {"debug": ("debug", None), "info": ("info", None), "warning": ("warn", "yellow"),
          "error": ("error", "red")}  # fmt: skip
"""Each level, as it is shown, and its colour."""

WIDE = 76
"""From this width on, the text of a long line continues below itself."""

MIN_WIDTH = 30
EVENT_WIDTH = 14
SLOW_S = 0.1
"""Shorter waits and loads of a request are shown with --json only."""

_NO_BREAK = "\xa0"
_HEAD = ("time", "level", "event")
_REQUEST = frozenset(
    {"rid", "conn", "method", "model", "outcome", "seconds", "prompt_tokens", "cached_tokens",
     "completion_tokens", "reasoning_tokens", "priority", "replays", "tokens_per_s", "queue_s",
     "load_s", "prefill_s", "decode_s", "time_to_first_token_s"}
)  # fmt: skip
"""Fields of a request that `_request` shows, or leaves to --json."""


def formatted(line: bytes, *, width: int | None = None, colour: bool = False) -> str:
    """Return one line of the log as text of at most `width` columns, if words are not longer.

    A line that is not a log record is shown as it is. Control characters are escaped.
    """
    text = line.decode(errors="backslashreplace").rstrip("\r\n")
    record = _record(text)
    if record is None:
        return _wrapped(visible(text), width, "  ")
    level, shade = LEVELS.get(str(record["level"]), (visible(str(record["level"])), None))
    event = visible(str(record["event"]))
    head = f"{_local(str(record['time']))} {level:5} {event:{EVENT_WIDTH}}"
    fields = ", ".join(map(_unbroken, _request(record) if event == "request" else _fields(record)))
    hang = " " * (len(head) + 1) if width is not None and width >= WIDE else "  "
    shown = _wrapped(f"{head} {fields}".rstrip(), width, hang)
    if colour and shade is not None:
        shown = shown.replace(f" {level}", " " + click.style(level, fg=shade), 1)
    return shown


def _record(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and all(key in record for key in _HEAD) else None


def _local(stamp: str) -> str:
    """Return a UTC time in local time, as `Nov 27 17:12:59`."""
    try:
        return datetime.fromisoformat(stamp).astimezone().strftime("%b %d %H:%M:%S")
    except (ValueError, OverflowError):
        return visible(stamp)


def _fields(record: dict[str, Any], without: frozenset[str] = frozenset()) -> Iterator[str]:
    for name, value in record.items():
        if name in _HEAD or name in without or value is None or value in ("", [], {}):
            continue
        label, text = _field(name, value)
        yield visible(f"{label} {text}")


def _field(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, bool):
        return spaced(name), "yes" if value else "no"
    if isinstance(value, (int, float)):
        return quantity(name, value)
    if isinstance(value, str):
        return spaced(name), value
    return spaced(name), json.dumps(value, ensure_ascii=False)


def _request(record: dict[str, Any]) -> Iterator[str]:
    """Yield what a request was, how it ended, its tokens and its speed."""
    number = record.get("rid", "?")
    yield visible(f"#{number} {record.get('method', '?')} {record.get('model', '?')}")
    outcome = record.get("outcome", "?")
    yield visible(str(outcome))
    if record.get("priority", "interactive") != "interactive":
        yield visible(f"priority {record['priority']}")
    if record.get("replays"):
        yield visible(f"retried {record['replays']}×")
    if isinstance(seconds := record.get("seconds"), (int, float)):
        yield f"after {duration(seconds)}"
    yield from _tokens(record)
    yield from _timing(record)
    yield from _fields(record, _REQUEST)


def _tokens(record: dict[str, Any]) -> Iterator[str]:
    if "prompt_tokens" in record:
        cached = f" ({record['cached_tokens']} cached)" if record.get("cached_tokens") else ""
        yield visible(f"{record['prompt_tokens']} tokens in{cached}")
    if "completion_tokens" in record:
        yield visible(f"{record['completion_tokens']} out")


def _timing(record: dict[str, Any]) -> Iterator[str]:
    for name, label in (("queue_s", "queued"), ("load_s", "load")):
        value = record.get(name)
        if isinstance(value, (int, float)) and value >= SLOW_S:
            yield f"{label} {duration(value)}"
    first = record.get("time_to_first_token_s")
    if isinstance(first, (int, float)):
        yield f"first token {duration(first)}"
    rate = record.get("tokens_per_s")
    if isinstance(rate, (int, float)) and rate:
        yield f"{rate:.3g} tokens/s"


def _unbroken(field: str) -> str:
    """Keep a short field in one line, by spaces at which it is not broken."""
    return field.replace(" ", _NO_BREAK) if len(field) <= MIN_WIDTH else field


def _wrapped(text: str, width: int | None, hang: str) -> str:
    if width is not None:
        text = wrapped(text, max(width, MIN_WIDTH), rest=hang)
    return text.replace(_NO_BREAK, " ")
