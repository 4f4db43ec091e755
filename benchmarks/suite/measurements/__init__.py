"""One module per measurement: `measure(plan)` yields records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from suite.measurements import first_token, streams
from suite.plan import Plan
from suite.records import Record

MEASUREMENTS: dict[str, Callable[[Plan], Iterator[Record]]] = {
    "streams": streams.measure,
    "first_token": first_token.measure,
}
