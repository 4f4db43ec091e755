"""The client library: `from mlxd.client import Client` (or `AsyncClient`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlxd.client.aio import AsyncClient
    from mlxd.client.sync import Client

__all__ = ["AsyncClient", "Client"]

_PLACES = {"Client": "mlxd.client.sync", "AsyncClient": "mlxd.client.aio"}


def __getattr__(name: str) -> Any:
    """Import on first use: the sync client must not pay for asyncio."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
