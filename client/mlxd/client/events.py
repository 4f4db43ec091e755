"""The events of a stream, as frozen dataclasses that are also maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxd.client.results import Record


@dataclass(frozen=True, slots=True, eq=False)
class Event(Record):
    """The base class of all events, and the class of events with an unknown type."""

    id: int | str = 0
    type: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Queued(Event):
    """The request is queued behind `position` others."""

    position: int = 0
    conversation: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Loading(Event):
    """The model is being loaded: `done_bytes` of `total_bytes`, which is 0 before it is known."""

    model: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Prefill(Event):
    """`done` of `total` prompt tokens are computed."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Progress(Event):
    """`done` of `total` bytes of a file are downloaded or written."""

    file: str = ""
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Delta(Event):
    """New text of answer number `index`. `channel` is `answer` or `reasoning`."""

    index: int = 0
    text: str = ""
    channel: str = ""
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ToolCalled(Event):
    """The model calls a function. `index` is the number of the answer."""

    index: int = 0
    call_id: str = ""
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


KINDS: dict[str, type[Event]] = {
    "queued": Queued,
    "loading": Loading,
    "prefill": Prefill,
    "progress": Progress,
    "delta": Delta,
    "tool_call": ToolCalled,
}
"""Maps the type of an event to its class."""


def event_of(raw: dict[str, Any]) -> Event:
    """Return the typed event for a raw event map."""
    return KINDS.get(str(raw.get("type")), Event).of(raw)
