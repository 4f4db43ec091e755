"""Loads models one at a time, evicts others for them, and unloads idle ones."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models import eviction, memory
from mlxd.daemon.engine.models.files import check_files, check_folder, kv_room_bytes
from mlxd.daemon.engine.models.loader import LoadedModel, Loader, model_edge
from mlxd.daemon.engine.models.loading import Loading, needed_bytes, release_frames
from mlxd.daemon.engine.models.probe import Prober
from mlxd.daemon.engine.models.reports import matches, record
from mlxd.daemon.engine.scheduling.pacing import CHUNK_STEP_TOKENS
from mlxd.daemon.engine.tokenization.worker import Preparer, TokenizerReady
from mlxd.protocol.errors import MlxdError, OutOfMemory

PRESSURE_POLL_S = 2.0


@dataclass(slots=True)
class ModelManager:
    """The loaded models and those that are being loaded.

    `count_requests(key)` counts the requests that use a model. `kv_bytes()` is the upper bound of
    the running requests' KV caches. `make_way(bytes)` evicts cached prompts until that many bytes
    of weights fit. `on_unload(loaded, bytes)` is called after an unload, with the bytes of the
    remaining weights, and `on_slice()` before a slice of weights is read.
    """

    preparer: Preparer
    prober: Prober
    budget_bytes: int
    default_keep_alive_s: float
    count_requests: Callable[[str], int]
    kv_bytes: Callable[[], int]
    make_way: Callable[[int], None]
    on_unload: Callable[[LoadedModel, int], None]
    pressure: Callable[[], str] = memory.pressure
    on_slice: Callable[[], None] = lambda: None
    give_back: Callable[[], None] = lambda: None
    """Returns freed memory to the system."""
    warm_up_tokens: int = 1
    chunk_step_tokens: int = CHUNK_STEP_TOKENS
    loaded: dict[str, LoadedModel] = field(default_factory=dict)
    loading: dict[str, Loading] = field(default_factory=dict)
    loaded_total: int = 0
    evicted_total: int = 0
    evictions: list[dict[str, Any]] = field(default_factory=list)
    """Evictions that were not reported to the front yet: model, bytes, reason."""
    _queue: deque[str] = field(default_factory=deque)
    _pressure_checked_s: float = 0.0
    _short_since_s: float = math.inf
    blocked: bool = False
    """Whether the next load waits for memory that running requests hold."""

    def ensure(
        self, ref: ModelRef, keep_alive_s: float | None = None, pin: bool | None = None
    ) -> bool:
        """Start to load a model unless it is loaded or loading. Return whether it is loaded.

        Raises:
            MlxdError: the folder cannot be a model.
        """
        base, draft = ref.base_ref, ref.draft_ref
        if base is not None and base.key not in self.loaded:
            self._start_loading(Loading(base, shared=True))
        loading = Loading(ref, keep_alive_s, pin, () if base is None else (base.key,))
        complete = self._ensure_one(loading)
        if draft is not None:
            complete &= self._ensure_one(Loading(draft, beside=(ref.key,)))
        return complete

    def _ensure_one(self, loading: Loading) -> bool:
        loaded = self.loaded.get(loading.ref.key)
        if loaded is None:
            self._start_loading(loading)
            return False
        if loaded.shared:
            loaded.ref, loaded.shared = loading.ref, False
            loaded.keep_alive_s = self._keep_alive_s(loading)
        elif loading.keep_alive_s is not None:
            loaded.keep_alive_s = self._keep_alive_s(loading)
        if loading.pin is not None:
            loaded.pin_requested = loaded.pinned = loading.pin
        elif loaded.pin_requested is None:
            loaded.pinned = loaded.pinned or loading.ref.pin
        return True

    def _start_loading(self, loading: Loading) -> None:
        key = loading.ref.key
        known = self.loading.get(key)
        if known is None:
            with model_edge(loading.ref):
                check_folder(Path(loading.ref.path))
                if loading.ref.adapter is not None:
                    check_files(Path(loading.ref.adapter))
            self.loading[key] = loading
            self._queue.append(key)
            self.preparer.load(loading.ref)
        elif not loading.shared:
            if known.shared:
                known.ref, known.shared = loading.ref, False
            known.pin = known.pin if loading.pin is None else loading.pin
            if loading.keep_alive_s is not None:
                known.keep_alive_s = loading.keep_alive_s

    def _keep_alive_s(self, loading: Loading) -> float:
        """Return the keep-alive time of the request, of the model's configuration, or the
        default."""
        if loading.shared:
            return 0.0
        chosen = (loading.keep_alive_s, loading.ref.keep_alive_s, self.default_keep_alive_s)
        keep_alive_s = next(one for one in chosen if one is not None)
        return math.inf if keep_alive_s < 0 else keep_alive_s

    def tokenizer_ready(self, message: TokenizerReady) -> LoadedModel | None:
        """Record a tokenizer, or raise its error. Return the model if it is complete now."""
        loading = self.loading.get(message.key)
        if loading is None:
            return None
        if message.error is not None:
            raise message.error
        loading.tokenizer = message.tokenizer
        return self._complete(loading)

    @property
    def next_key(self) -> str | None:
        """The key of the model whose weights are read now or next, or None."""
        return next((key for key in self._queue if not self.loading[key].weights_done), None)

    def advance(self) -> LoadedModel | None:
        """Read a slice of the model `next_key`. Return the model once it is complete.

        Raises:
            MlxdError: that model cannot be loaded.
        """
        key = self.next_key
        if key is None:
            return None
        loading = self.loading[key]
        if loading.weights is None:
            with model_edge(loading.ref):
                self.blocked = not self._make_room(loading)
            if self.blocked:
                return None
            loading.weights = Loader(
                loading.ref, self.prober, self._base_of(loading.ref), self.warm_up_tokens
            )
        self.on_slice()
        loading.weights_done = loading.weights.advance()
        return self._complete(loading) if loading.weights_done else None

    def drop_loading(self, key: str) -> None:
        """Remove a load that is complete or has failed."""
        self.loading.pop(key, None)
        if key in self._queue:
            self._queue.remove(key)

    def abandon(self, key: str, error: MlxdError) -> None:
        """Remove a load that failed with `error`, and free the weights that it has read.

        The loads of its dependents end too, because an adapter needs its base.
        """
        dependents = [other for other, one in self.loading.items() if key in one.beside]
        release_frames(error)
        for failed in [key, *dependents]:
            self._abandon_one(failed)
        mx.clear_cache()
        self.give_back()

    def _abandon_one(self, key: str) -> None:
        loading = self.loading.get(key)
        self.drop_loading(key)
        if loading is None:
            return
        if loading.weights is not None:
            loading.weights.close()
        # The user may repair the files, so the next load must read the tokenizer again.
        self._forget_tokenizer(loading.ref.path)

    def _forget_tokenizer(self, path: str) -> None:
        if not any(loaded.ref.path == path for loaded in self.loaded.values()):
            self.preparer.forget(path)

    def named(self, target: Mapping[str, Any]) -> list[str]:
        """Return the keys of the loaded models that match the target of `unload`."""
        return [key for key, loaded in self.loaded.items() if matches(loaded.ref, target)]

    def unload_when_loaded(self, target: Mapping[str, Any]) -> None:
        """Unload models that are still loading as soon as no request uses them."""
        for loading in self.loading.values():
            if matches(loading.ref, target):
                loading.keep_alive_s, loading.pin = 0.0, False

    def dependents_of(self, keys: list[str]) -> list[str]:
        """Return the loaded models that share weights with one of `keys` and are not in it."""
        return [
            one.key
            for one in self._view()
            if one.key not in keys and any(key in keys for key in one.depends_on)
        ]

    def unload(self, key: str) -> None:
        """Free a model's memory."""
        loaded = self.loaded.pop(key)
        self.on_unload(loaded, self.weights_bytes())
        self._forget_tokenizer(loaded.ref.path)
        del loaded
        mx.clear_cache()
        self.give_back()

    def expire(self) -> list[str]:
        """Unload idle models that expired, or that are evicted under memory pressure."""
        now_s = time.monotonic()
        reasons = dict.fromkeys(eviction.expired(self._view(), now_s), eviction.KEEP_ALIVE_OVER)
        if now_s - self._pressure_checked_s >= PRESSURE_POLL_S:
            self._pressure_checked_s = now_s
            level = self.pressure()
            for key in self._relieve(level):
                reasons.setdefault(key, eviction.memory_is_short(level))
        for key, reason in reasons.items():
            self._evict(key, reason)
        return [*reasons]

    def _evict(self, key: str, reason: str) -> None:
        loaded = self.loaded[key]
        self.unload(key)
        self.evicted_total += 1
        if not loaded.shared:  # no request named a base model that was loaded for adapters
            self.evictions.append(
                {"model": loaded.ref.name, "bytes": loaded.bytes, "reason": reason}
            )

    def take_evictions(self) -> list[dict[str, Any]]:
        """Return the evictions since the last call, for the front."""
        evictions, self.evictions = self.evictions, []
        return evictions

    def _relieve(self, level: str) -> tuple[str, ...]:
        """Free caches if memory is short. Return the models to evict in addition."""
        now_s = time.monotonic()
        if level == "normal":
            self._short_since_s = math.inf
            return ()
        self._short_since_s = min(self._short_since_s, now_s)
        self.make_way(self.budget_bytes)
        mx.clear_cache()
        self.give_back()
        return eviction.under_pressure(self._view(), level, now_s - self._short_since_s)

    def next_expiry_s(self) -> float:
        """Return the seconds until the next model expires, infinite if none does."""
        when = eviction.next_expiry_s(self._view())
        return math.inf if when is None else max(0.0, when - time.monotonic())

    def weights_bytes(self) -> int:
        """Return the bytes of all weights that are loaded or being read."""
        read = (one.need_bytes for one in self.loading.values() if one.weights is not None)
        return sum(loaded.bytes for loaded in self.loaded.values()) + sum(read)

    def records(self) -> list[dict[str, Any]]:
        """Return the results of `ps`."""
        now_s = time.monotonic()
        return [
            record(loaded, self.count_requests(key), now_s) for key, loaded in self.loaded.items()
        ]

    def prompt_bounds(self) -> dict[str, dict[str, Any]]:
        """Return each loaded model's prompt bound by path. The front uses it to refuse prompts."""
        return {
            loaded.ref.path: bound.to_map()
            for loaded in self.loaded.values()
            if (bound := loaded.tokenizer.prompt_bound) is not None
        }

    def _complete(self, loading: Loading) -> LoadedModel | None:
        if not (loading.weights_done and loading.tokenizer and loading.weights):
            return None
        with model_edge(loading.ref):
            loaded = loading.weights.loaded_model(loading.tokenizer, self._keep_alive_s(loading))
        loaded.ref, loaded.shared = loading.ref, loading.shared
        loaded.pacer.chunk_step_tokens = self.chunk_step_tokens
        loaded.pin_requested = loading.pin
        loaded.pinned = loading.ref.pin if loading.pin is None else loading.pin
        loaded.load_s = time.monotonic() - loading.requested_s
        self.drop_loading(loading.ref.key)
        self.loaded[loading.ref.key] = loaded
        self.loaded_total += 1
        return loaded

    def _make_room(self, loading: Loading) -> bool:
        """Evict models for a load. False: the load fits once running requests have ended."""
        need = loading.need_bytes = needed_bytes(
            loading.ref, shares_base=self._base_of(loading.ref) is not None
        )
        # Includes memory for the KV cache of a request.
        room = self.budget_bytes - kv_room_bytes(Path(loading.ref.path))
        free = self._plan_evictions(need, loading.beside, room - self.kv_bytes())
        if free.fits:
            for key in free.evict:
                self._evict(key, eviction.evicted_for(loading.ref.name))
            self.make_way(self.weights_bytes() + need)
            return True
        if self._plan_evictions(need, loading.beside, room, quiet=True).fits:
            return False
        held = self.weights_bytes()
        raise OutOfMemory(
            f"{loading.ref.name} needs about {_gigabytes(need)} and some room for KV; the budget "
            f"is {_gigabytes(self.budget_bytes)}, of which {_gigabytes(held)} cannot be freed.",
            data={"need_bytes": need, "budget_bytes": self.budget_bytes, "held_bytes": held},
        )

    def _plan_evictions(
        self, need: int, beside: tuple[str, ...], budget: int, *, quiet: bool = False
    ) -> eviction.EvictionPlan:
        view = self._view()
        if quiet:
            # Calculated as if all running requests had ended.
            view = [replace(one, requests=0) for one in view]
        reading = (one.need_bytes for one in self.loading.values() if one.weights is not None)
        return eviction.plan_evictions(view, need, budget - sum(reading), beside=beside)

    def _base_of(self, ref: ModelRef) -> Any:
        """Return the loaded model without the adapter, or None."""
        base = ref.base_ref
        if base is None:
            return None
        if loaded := self.loaded.get(base.key):
            return loaded.model
        # Its weights may be complete while its tokenizer is not.
        loading = self.loading.get(base.key)
        if loading is None or loading.weights is None or not loading.weights_done:
            return None
        return loading.weights.model

    def _users(self, key: str) -> int:
        """Return the number of requests and loading models that use this model."""
        return self.count_requests(key) + sum(key in one.beside for one in self.loading.values())

    def _view(self) -> list[eviction.ModelState]:
        return [
            eviction.ModelState(
                key=key,
                bytes=loaded.bytes,
                last_used_s=loaded.last_used_s,
                keep_alive_s=loaded.keep_alive_s,
                pinned=loaded.pinned,
                requests=self._users(key),
                depends_on=() if loaded.ref.base_ref is None else (loaded.ref.base_ref.key,),
            )
            for key, loaded in self.loaded.items()
        ]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
