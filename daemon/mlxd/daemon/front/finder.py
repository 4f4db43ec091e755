"""Finds the model of a request without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.models.records import ModelRef
from mlxd.protocol.errors import MlxdError

WARM_TIMEOUT_S = 1.0
"""Longest wait for the default model at the start, in seconds, in case the disk hangs."""


class Finder:
    """Reads files in threads. Requests with the same `supersede` key keep their order."""

    def __init__(self) -> None:
        self._in_order = asyncio.Lock()
        self.naming = asyncio.Lock()
        """Held while aliases or the default model change, from reading them until the change
        applies."""

    def known(self, catalog: Catalog, params: Mapping[str, Any]) -> ModelRef | None:
        """Return the model if no file must be read, otherwise None. In that case call `find`."""
        # The newest request of a key cancels the others, so it must not overtake an older one.
        if params.get("supersede") is not None and self._in_order.locked():
            return None
        return catalog.known(**_asked(params))

    async def warm(self, catalog: Catalog) -> None:
        """Look up the default model, if the disk responds in time."""
        with contextlib.suppress(MlxdError, asyncio.TimeoutError):
            await asyncio.wait_for(self.find(catalog, {}), WARM_TIMEOUT_S)

    async def find(self, catalog: Catalog, params: Mapping[str, Any]) -> ModelRef:
        """Return the model. Raises the same errors as `Catalog.resolve`."""
        if params.get("supersede") is None:
            return await _find(catalog, params)
        async with self._in_order:
            return await _find(catalog, params)


async def _find(catalog: Catalog, params: Mapping[str, Any]) -> ModelRef:
    asked = _asked(params)
    if (known := catalog.known(**asked)) is not None:
        return known
    return await asyncio.to_thread(lambda: catalog.resolve(**asked))


def _asked(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": params.get("model"),
        "adapter": params.get("adapter"),
        "draft": params.get("draft"),
        "trust_remote_code": bool(params.get("trust_remote_code")),
    }
