"""Time limits of a client."""

from __future__ import annotations

from dataclasses import dataclass, replace

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits in seconds. None means no limit.

    When a limit passes, the client cancels the request and raises `RequestTimeout`. A model may
    take minutes to load and to answer, so by default only connecting is limited.
    """

    connect_s: float | None = CONNECT_S
    """Time until the daemon accepts the connection."""
    first_s: float | None = None
    """Time until the first event of a request, or its result."""
    idle_s: float | None = None
    """Time between two events of a request, or until its result."""
    total_s: float | None = None
    """Time until the result."""


DEFAULTS = Timeouts()
NO_LIMITS = Timeouts(connect_s=None)


class _Unset:
    """The type of `UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()
"""The default of `timeout` parameters: the client's limits apply."""

Timeout = Timeouts | float | None
"""A number limits the whole request in seconds. None removes all limits."""


def resolve(given: Timeout | _Unset, default: Timeouts) -> Timeouts:
    """Return the limits that apply to a request."""
    if isinstance(given, _Unset):
        return default
    if given is None:
        return NO_LIMITS
    if isinstance(given, Timeouts):
        return given
    return replace(default, total_s=float(given))
