"""Buffers events for a caller that may read slowly. Pure."""

from __future__ import annotations

from typing import Any

PENDING_MAX_BYTES = 64 * 2**20
"""Maximum buffered text for a caller that does not read, in characters."""

EVENT_BYTES = 64
"""Approximate cost of an event without its text."""

Event = dict[str, Any]


class EventQueue:
    """Buffers events while the caller is slow. Merges deltas of one answer, without losing text."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._open: dict[tuple[Any, ...], Event] = {}
        self._parts: dict[int, list[str]] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Append an event, or merge it into the last one of the same answer.

        The order within each answer is kept. The order between answers may change.
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
        """Return all events and empty the buffer."""
        events = self._events
        for event in events:
            parts = self._parts.get(id(event))
            if parts is not None:
                event["text"] = "".join(parts)
        self._events, self._open, self._parts, self.nbytes = [], {}, {}, 0
        return events

    def _merge(self, last: Event, event: Event) -> None:
        # A list of parts, because appending to a string copies the whole text for every token.
        self._parts.setdefault(id(last), [last["text"]]).append(event["text"])
        if "tokens" in event:
            last["tokens"] = last.get("tokens", 0) + event["tokens"]
        if "logprobs" in event:
            last.setdefault("logprobs", []).extend(event["logprobs"])
            self.nbytes += EVENT_BYTES * len(event["logprobs"])
