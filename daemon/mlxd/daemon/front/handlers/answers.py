"""The arguments and results of handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.daemon.front.services import Services

Params = dict[str, Any]
Answer = Any
"""The result, an awaitable of it, or `LATER`."""
Handler = Callable[[Services, RequestInFlight, Params], Answer]

LATER: Final[Any] = object()
"""Returned by a handler whose answer is sent elsewhere."""
