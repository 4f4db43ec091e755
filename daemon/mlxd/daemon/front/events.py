"""Events on their way to a caller who may read slowly. Pure."""

from __future__ import annotations

from typing import Any

PENDING_MAX_BYTES = 64 * 2**20
"""Text that is kept for a caller who does not read. More is not an answer but a leak."""

Event = dict[str, Any]


class EventQueue:
    """Keeps events while the caller is slow; neighbouring deltas become one. Nothing is lost."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Append, or merge into the last event of the same answer and channel."""
        self.nbytes += len(event.get("text", "")) + 64
        last = self._events[-1] if self._events else None
        if last is not None and last["type"] == event["type"] == "prefill":
            self._events[-1] = event
            return
        if last is None or not _same_stream(last, event):
            self._events.append(dict(event))
            return
        last["text"] += event["text"]
        if "logprobs" in event:
            last["logprobs"] = [*last.get("logprobs", []), *event["logprobs"]]

    def take(self) -> list[Event]:
        """Return everything and begin anew."""
        events, self._events, self.nbytes = self._events, [], 0
        return events


def _same_stream(last: Event, event: Event) -> bool:
    keys = ("type", "id", "index", "channel")
    return event["type"] == "delta" and all(last.get(key) == event.get(key) for key in keys)
