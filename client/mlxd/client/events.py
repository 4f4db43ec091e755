"""The events of a stream, as frozen dataclasses that can still be read as maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxd.client.results import Record


@dataclass(frozen=True, slots=True, eq=False)
class Event(Record):
    """Something that happened to a request. Types that are not known yet have this class."""

    id: int | str = 0
    type: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Queued(Event):
    """The request waits behind `position` others."""

    position: int = 0
    conversation: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Loading(Event):
    """The model is being loaded."""

    model: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Prefill(Event):
    """So many tokens of the prompt are done, of so many."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Progress(Event):
    """So many bytes of a file are done, of so many."""

    file: str = ""
    done: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Delta(Event):
    """A piece of an answer. `channel` is `answer` or `reasoning`."""

    index: int = 0
    text: str = ""
    channel: str = ""
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ToolCalled(Event):
    """The model wants a function to be called. `index` is the answer's."""

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
"""Type of an event to its class."""


def event_of(raw: dict[str, Any]) -> Event:
    """Return a typed event."""
    return KINDS.get(str(raw.get("type")), Event).of(raw)
