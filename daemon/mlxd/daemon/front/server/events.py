"""Events on their way to a caller who may read slowly. Pure."""

from __future__ import annotations

from typing import Any

PENDING_MAX_BYTES = 64 * 2**20
"""Text that is kept for a caller who does not read. More is not an answer but a leak."""

EVENT_BYTES = 64
"""What an event costs beside its text, roughly."""

Event = dict[str, Any]


class EventQueue:
    """Keeps events while the caller is slow; deltas of one answer become one. Nothing is lost."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._open: dict[tuple[Any, ...], Event] = {}
        self._parts: dict[int, list[str]] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Append, or merge into what the same answer has waiting already.

        The order within an answer stays; that between answers means nothing to a reader.
        """
        key = (event["id"], event.get("index", event.get("file")))
        last = self._open.get(key)
        self.nbytes += len(event.get("text", ""))
        if last is not None and last["type"] == event["type"] == "delta":
            if last["channel"] == event["channel"]:
                self._merge(last, event)
                return
        elif last is not None and last["type"] == event["type"] in ("prefill", "progress"):
            last.update(event)
            return
        kept = dict(event)
        if "logprobs" in kept:
            kept["logprobs"] = list(kept["logprobs"])
        self.nbytes += EVENT_BYTES
        self._events.append(kept)
        self._open[key] = kept

    def take(self) -> list[Event]:
        """Return everything and begin anew."""
        events = self._events
        for event in events:
            parts = self._parts.get(id(event))
            if parts is not None:
                event["text"] = "".join(parts)
        self._events, self._open, self._parts, self.nbytes = [], {}, {}, 0
        return events

    def _merge(self, last: Event, event: Event) -> None:
        # Parts, joined once: adding strings would copy the whole text for every token.
        self._parts.setdefault(id(last), [last["text"]]).append(event["text"])
        if "tokens" in event:
            last["tokens"] = last.get("tokens", 0) + event["tokens"]
        if "logprobs" in event:
            last.setdefault("logprobs", []).extend(event["logprobs"])
            self.nbytes += EVENT_BYTES * len(event["logprobs"])
