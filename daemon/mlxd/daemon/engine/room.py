"""Divides the memory budget: weights first, then running requests, then cached prompts."""

from __future__ import annotations

import time

from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.models.loader import LoadedModel
from mlxd.daemon.engine.scheduling.scheduler import Scheduler


class MemoryRoom:
    """Fits KV caches beside the weights.

    Call `changed` when the set of loaded models has changed.
    """

    def __init__(self, budget_bytes: int, scheduler: Scheduler, prefixes: PrefixCache) -> None:
        self._budget_bytes = budget_bytes
        self._scheduler = scheduler
        self._prefixes = prefixes
        self.changed = False
        self.last_unload_s = time.monotonic()
        """The time at which the last model was unloaded, or the engine started."""

    def fit(self, weights_bytes: int) -> None:
        """Adapt to the size of the loaded weights. KV caches may use the rest of the budget."""
        self.changed = True
        self._scheduler.kv_budget_bytes = max(0, self._budget_bytes - weights_bytes)
        self.trim(weights_bytes)

    def model_loaded(self, loaded: LoadedModel, weights_bytes: int) -> None:
        """Adapt to a model that was loaded. All models together have `weights_bytes`."""
        found = loaded.findings
        self._prefixes.restrict(
            loaded.fingerprint, memory=not found.unkept, disk=not found.unstored
        )
        self.fit(weights_bytes)

    def trim(self, weights_bytes: int) -> None:
        """Evict cached prompts until the rest fits beside weights and running requests."""
        held = weights_bytes + self._scheduler.kv_in_use()
        room = max(0, self._budget_bytes - held)
        if self._prefixes.nbytes > room:
            self._prefixes.trim(room)

    def model_unloaded(self, loaded: LoadedModel, weights_bytes: int) -> None:
        """Free the caches of an unloaded model. The remaining models have `weights_bytes`."""
        self._prefixes.release(loaded.fingerprint)
        self.last_unload_s = time.monotonic()
        self.fit(weights_bytes)
