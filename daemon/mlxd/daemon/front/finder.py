"""Finds the model that a request names, without holding up everybody else's streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.models.records import ModelRef
from mlxd.protocol.errors import MlxdError

WARM_TIMEOUT_S = 1.0
"""A disk that hangs must not keep the daemon from starting."""


class Finder:
    """Reads files on threads. Requests with a `supersede` key keep the order they came in."""

    def __init__(self) -> None:
        self._in_order = asyncio.Lock()
        self.naming = asyncio.Lock()
        """Held while names of models change, from reading them until they apply."""

    def known(self, catalog: Catalog, params: Mapping[str, Any]) -> ModelRef | None:
        """Return the model at once, or None where files must be read: then use `find`."""
        # The newest request of a key wins: it must not overtake one that still waits for a file.
        if params.get("supersede") is not None and self._in_order.locked():
            return None
        return catalog.known(**_asked(params))

    async def warm(self, catalog: Catalog) -> None:
        """Look the default model up, if that is quick."""
        with contextlib.suppress(MlxdError, asyncio.TimeoutError):
            await asyncio.wait_for(self.find(catalog, {}), WARM_TIMEOUT_S)

    async def find(self, catalog: Catalog, params: Mapping[str, Any]) -> ModelRef:
        """Return the model. Raises what `Catalog.resolve` raises."""
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
