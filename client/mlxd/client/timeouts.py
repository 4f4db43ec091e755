"""How long a client waits."""

from __future__ import annotations

from dataclasses import dataclass, replace

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds; None: no limit.

    A request whose limit passes is cancelled at the daemon and ends with `RequestTimeout`. A model
    may take minutes to load and to answer, so by default only connecting is limited.
    """

    connect_s: float | None = CONNECT_S
    """Until the daemon accepts the connection."""
    first_s: float | None = None
    """Until the first event of a request, or its result."""
    idle_s: float | None = None
    """Without an event of a request, or its result."""
    total_s: float | None = None
    """Until the result."""


DEFAULTS = Timeouts()
NO_LIMITS = Timeouts(connect_s=None)


class _Unset:
    """The type of `UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()
"""Stands for a time limit that the caller did not give: the client's own hold."""

Timeout = Timeouts | float | None
"""A number limits the whole request; None lifts every limit."""


def resolve(given: Timeout | _Unset, default: Timeouts) -> Timeouts:
    """Return the limits that hold for a request."""
    if isinstance(given, _Unset):
        return default
    if given is None:
        return NO_LIMITS
    if isinstance(given, Timeouts):
        return given
    return replace(default, total_s=float(given))
