"""One module per measurement: `measure(plan)` yields records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from suite.measurements import first_byte, first_token, request_sent, streams
from suite.plan import Plan
from suite.records import Record

MEASUREMENTS: dict[str, Callable[[Plan], Iterator[Record]]] = {
    "streams": streams.measure,
    "first_token": first_token.measure,
    "first_byte": first_byte.measure,
    "request_sent": request_sent.measure,
}
