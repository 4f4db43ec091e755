"""One module per measurement: `measure(plan)` yields records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from suite.measurements import (
    busy,
    cancel,
    first_byte,
    first_token,
    front,
    gaps,
    growth,
    idle,
    memory,
    priority,
    ready,
    request_sent,
    second_turn,
    streams,
)
from suite.plan import Plan
from suite.records import Record

MEASUREMENTS: dict[str, Callable[[Plan], Iterator[Record]]] = {
    "request_sent": request_sent.measure,
    "first_byte": first_byte.measure,
    "ready": ready.measure,
    "first_token": first_token.measure,
    "streams": streams.measure,
    "second_turn": second_turn.measure,
    "priority": priority.measure,
    "busy": busy.measure,
    "cancel": cancel.measure,
    "idle": idle.measure,
    "gaps": gaps.measure,
    "front": front.measure,
    "memory": memory.measure,
    "growth": growth.measure,
}
