"""Which models are in memory: loading one at a time, making room first, letting go when idle."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.models import eviction, memory
from mlxd.daemon.engine.models.files import (
    check_files,
    check_folder,
    estimate_adapter_bytes,
    estimate_resident_bytes,
    kv_room_bytes,
)
from mlxd.daemon.engine.models.loader import Host, Loader, model_edge
from mlxd.daemon.engine.request import ModelRef
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.daemon.engine.tokenization.worker import Preparer, TokenizerReady
from mlxd.protocol.errors import MlxdError, OutOfMemory

PRESSURE_POLL_S = 2.0


@dataclass(slots=True)
class Loading:
    """A model that somebody waits for. `weights` is set once there is room and reading began.

    `beside` are the models without which it is of no use: they stay while it loads.
    """

    ref: ModelRef
    keep_alive_s: float | None = None
    pin: bool | None = None
    """None: keep the pin as it is, or as configured."""
    beside: tuple[str, ...] = ()
    shared: bool = False
    """Nobody asked for the model itself: it goes with those that share its weights."""
    need_bytes: int = 0
    requested_s: float = field(default_factory=time.monotonic)
    weights: Loader | None = None
    weights_done: bool = False
    tokenizer: Tokenizer | None = None


@dataclass(slots=True)
class Residents:
    """Resident models and those to come.

    `requests(key)` counts the jobs of a model; `kv_bytes()` is what running requests may hold;
    `make_way(bytes)` frees cached prompts until that many bytes of weights fit;
    `on_gone(host, bytes)` is called when one goes, with the bytes of the other weights,
    `on_slice()` before a slice of weights is read.
    """

    preparer: Preparer
    budget_bytes: int
    default_keep_alive_s: float
    requests: Callable[[str], int]
    kv_bytes: Callable[[], int]
    make_way: Callable[[int], None]
    on_gone: Callable[[Host, int], None]
    pressure: Callable[[], str] = memory.pressure
    on_slice: Callable[[], None] = lambda: None
    give_back: Callable[[], None] = lambda: None
    """Returns freed memory to the system."""
    hosts: dict[str, Host] = field(default_factory=dict)
    loading: dict[str, Loading] = field(default_factory=dict)
    loaded_total: int = 0
    evicted_total: int = 0
    evictions: list[dict[str, Any]] = field(default_factory=list)
    """Evictions that the front does not know of yet: model, bytes, reason."""
    _queue: deque[str] = field(default_factory=deque)
    _pressure_checked_s: float = 0.0
    blocked: bool = False
    """Whether the next model waits for room that running requests hold."""

    def want(
        self, ref: ModelRef, keep_alive_s: float | None = None, pin: bool | None = None
    ) -> bool:
        """Ask for a model; returns whether it is resident. Asking twice loads it once.

        Raises:
            MlxdError: the folder cannot be a model.
        """
        base, draft = ref.base_ref, ref.draft_ref
        if base is not None and base.key not in self.hosts:
            self._ask_for(Loading(base, shared=True))
        loading = Loading(ref, keep_alive_s, pin, () if base is None else (base.key,))
        complete = self._want_one(loading)
        if draft is not None:
            complete &= self._want_one(Loading(draft, beside=(ref.key,)))
        return complete

    def _want_one(self, wanted: Loading) -> bool:
        host = self.hosts.get(wanted.ref.key)
        if host is None:
            self._ask_for(wanted)
            return False
        if host.shared:
            host.ref, host.shared = wanted.ref, False
            host.keep_alive_s = self._keep_alive_s(wanted)
        elif wanted.keep_alive_s is not None:
            host.keep_alive_s = self._keep_alive_s(wanted)
        if wanted.pin is not None:
            host.pin_requested = host.pinned = wanted.pin
        elif host.pin_requested is None:
            host.pinned = host.pinned or wanted.ref.pin
        return True

    def _ask_for(self, wanted: Loading) -> None:
        key = wanted.ref.key
        known = self.loading.get(key)
        if known is None:
            with model_edge(wanted.ref):
                check_folder(Path(wanted.ref.path))
                if wanted.ref.adapter is not None:
                    check_files(Path(wanted.ref.adapter))
            self.loading[key] = wanted
            self._queue.append(key)
            self.preparer.load(wanted.ref)
        elif not wanted.shared:
            if known.shared:
                known.ref, known.shared = wanted.ref, False
            known.pin = known.pin if wanted.pin is None else wanted.pin
            if wanted.keep_alive_s is not None:
                known.keep_alive_s = wanted.keep_alive_s

    def _keep_alive_s(self, wanted: Loading) -> float:
        """Return what the request says, else the configuration of the model, else the default."""
        if wanted.shared:
            return 0.0
        chosen = (wanted.keep_alive_s, wanted.ref.keep_alive_s, self.default_keep_alive_s)
        keep_alive_s = next(one for one in chosen if one is not None)
        return math.inf if keep_alive_s < 0 else keep_alive_s

    def tokenizer_ready(self, message: TokenizerReady) -> Host | None:
        """Take in a tokenizer; returns the model if that made it complete. Raises its error."""
        loading = self.loading.get(message.key)
        if loading is None:
            return None
        if message.error is not None:
            raise message.error
        loading.tokenizer = message.tokenizer
        return self._complete(loading)

    @property
    def next_key(self) -> str | None:
        """The model whose weights are read now or next, or None."""
        return next((key for key in self._queue if not self.loading[key].weights_done), None)

    def advance(self) -> Host | None:
        """Read a slice of the model `next_key`; returns it once it is complete.

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
            loading.weights = Loader(loading.ref, self._base_of(loading.ref))
        self.on_slice()
        loading.weights_done = loading.weights.advance()
        return self._complete(loading) if loading.weights_done else None

    def drop_loading(self, key: str) -> None:
        """Forget a load that is complete or no longer wanted."""
        self.loading.pop(key, None)
        if key in self._queue:
            self._queue.remove(key)

    def abandon(self, key: str, error: MlxdError) -> None:
        """Forget a load that failed with `error`, and free what it has read so far.

        Models that depend on it go too: an adapter without its base.
        """
        useless = [other for other, one in self.loading.items() if key in one.beside]
        release_frames(error)
        for gone in [key, *useless]:
            self._abandon_one(gone)
        mx.clear_cache()
        self.give_back()

    def _abandon_one(self, key: str) -> None:
        loading = self.loading.get(key)
        self.drop_loading(key)
        if loading is None:
            return
        if loading.weights is not None:
            loading.weights.close()
        # A tokenizer of files that are being repaired must not be kept.
        self._forget_tokenizer(loading.ref.path)

    def _forget_tokenizer(self, path: str) -> None:
        if not any(host.ref.path == path for host in self.hosts.values()):
            self.preparer.forget(path)

    def named(self, target: Mapping[str, Any]) -> list[str]:
        """Return the keys of the resident models that `unload` means."""
        return [key for key, host in self.hosts.items() if meant(host.ref, target)]

    def unload_when_loaded(self, target: Mapping[str, Any]) -> None:
        """Let models that are still being loaded go as soon as nobody uses them."""
        for loading in self.loading.values():
            if meant(loading.ref, target):
                loading.keep_alive_s, loading.pin = 0.0, False

    def resting_on(self, keys: list[str]) -> list[str]:
        """Return the resident models that share the weights of one of `keys`, beside those."""
        return [
            one.key
            for one in self._view()
            if one.key not in keys and any(key in keys for key in one.rests_on)
        ]

    def let_go(self, key: str) -> None:
        """Free a model's memory."""
        host = self.hosts.pop(key)
        self.on_gone(host, self.weights_bytes())
        self._forget_tokenizer(host.ref.path)
        del host
        mx.clear_cache()
        self.give_back()

    def expire(self) -> list[str]:
        """Let idle models go whose time is up, or for which the machine has no memory left."""
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
        host = self.hosts[key]
        self.let_go(key)
        self.evicted_total += 1
        if not host.shared:  # nobody asked for a base model that only adapters needed
            self.evictions.append({"model": host.ref.name, "bytes": host.bytes, "reason": reason})

    def take_evictions(self) -> list[dict[str, Any]]:
        """Return the evictions since the last call, for the front."""
        evictions, self.evictions = self.evictions, []
        return evictions

    def _relieve(self, level: str) -> tuple[str, ...]:
        """Give caches back when memory is short; returns the models to let go as well."""
        if level == "normal":
            return ()
        self.make_way(self.budget_bytes)
        mx.clear_cache()
        self.give_back()
        return eviction.under_pressure(self._view(), level)

    def next_expiry_s(self) -> float:
        """Return the seconds until a model's time is up; infinite where none ever is."""
        when = eviction.next_expiry_s(self._view())
        return math.inf if when is None else max(0.0, when - time.monotonic())

    def weights_bytes(self) -> int:
        """Return the bytes of all resident weights, and of those that are being read."""
        read = (one.need_bytes for one in self.loading.values() if one.weights is not None)
        return sum(host.bytes for host in self.hosts.values()) + sum(read)

    def records(self) -> list[dict[str, Any]]:
        """Return what `ps` shows."""
        now_s = time.monotonic()
        return [
            {
                "model": host.ref.name,
                "revision": host.ref.revision,
                "adapter": host.ref.adapter,
                "path": host.ref.path,
                "bytes": host.bytes,
                "load_s": round(host.load_s, 3),
                "idle_s": 0.0 if self.requests(key) else round(now_s - host.last_used_s, 3),
                "keep_alive_s": keep_alive_on_wire(host.keep_alive_s),
                "pinned": host.pinned,
                "requests": self.requests(key),
                "batches": host.mergeable,
                "context_tokens": host.tokenizer.context_tokens,
            }
            for key, host in self.hosts.items()
        ]

    def prompt_bounds(self) -> dict[str, dict[str, Any]]:
        """Return what the front refuses prompts by: the path of a loaded model to its bound."""
        return {
            host.ref.path: bound.to_map()
            for host in self.hosts.values()
            if (bound := host.tokenizer.prompt_bound) is not None
        }

    def _complete(self, loading: Loading) -> Host | None:
        if not (loading.weights_done and loading.tokenizer and loading.weights):
            return None
        with model_edge(loading.ref):
            host = loading.weights.host(loading.tokenizer, self._keep_alive_s(loading))
        host.ref, host.shared = loading.ref, loading.shared
        host.pin_requested = loading.pin
        host.pinned = loading.ref.pin if loading.pin is None else loading.pin
        host.load_s = time.monotonic() - loading.requested_s
        self.drop_loading(loading.ref.key)
        self.hosts[loading.ref.key] = host
        self.loaded_total += 1
        return host

    def _make_room(self, loading: Loading) -> bool:
        """Evict what must go. False: wait, it fits when running requests are done."""
        need = loading.need_bytes = self._estimate(loading.ref)
        # Beside it there must be room for somebody to use it.
        room = self.budget_bytes - kv_room_bytes(Path(loading.ref.path))
        free = self._plan(need, loading.beside, room - self.kv_bytes())
        if free.fits:
            for key in free.evict:
                self._evict(key, eviction.made_room_for(loading.ref.name))
            self.make_way(self.weights_bytes() + need)
            return True
        if self._plan(need, loading.beside, room, quiet=True).fits:
            return False
        held = self.weights_bytes()
        raise OutOfMemory(
            f"{loading.ref.name} needs about {_gigabytes(need)} and some room for KV; the budget "
            f"is {_gigabytes(self.budget_bytes)}, of which {_gigabytes(held)} cannot be freed.",
            data={"need_bytes": need, "budget_bytes": self.budget_bytes, "held_bytes": held},
        )

    def _plan(
        self, need: int, beside: tuple[str, ...], budget: int, *, quiet: bool = False
    ) -> eviction.Plan:
        view = self._view()
        if quiet:
            # As if all requests were done, but for those that wait for this very model.
            view = [replace(one, requests=0) for one in view]
        reading = (one.need_bytes for one in self.loading.values() if one.weights is not None)
        return eviction.plan_load(view, need, budget - sum(reading), beside=beside)

    def _estimate(self, ref: ModelRef) -> int:
        """Return the bytes that the model will take beside what it can share."""
        if ref.adapter is None:
            return estimate_resident_bytes(Path(ref.path))
        own = estimate_adapter_bytes(Path(ref.adapter))
        shared = self._base_of(ref) is not None
        return own if shared else own + estimate_resident_bytes(Path(ref.path))

    def _base_of(self, ref: ModelRef) -> Any:
        """Return the loaded model without the adapter, or None."""
        base = ref.base_ref
        if base is None:
            return None
        if host := self.hosts.get(base.key):
            return host.model
        # Its tokenizer may still be on its way.
        loading = self.loading.get(base.key)
        if loading is None or loading.weights is None or not loading.weights_done:
            return None
        return loading.weights.model

    def _users(self, key: str) -> int:
        """Return how many requests, and models on their way, need this one."""
        return self.requests(key) + sum(key in one.beside for one in self.loading.values())

    def _view(self) -> list[eviction.Resident]:
        return [
            eviction.Resident(
                key=key,
                bytes=host.bytes,
                last_used_s=host.last_used_s,
                keep_alive_s=host.keep_alive_s,
                pinned=host.pinned,
                requests=self._users(key),
                rests_on=() if host.ref.base_ref is None else (host.ref.base_ref.key,),
            )
            for key, host in self.hosts.items()
        ]


def release_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error: their frames hold the model whose load failed."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def load_result(host: Host, *, was_loaded: bool) -> dict[str, Any]:
    """Return the result of `load`."""
    return {
        "model": host.ref.name,
        "bytes": host.bytes,
        "load_s": round(host.load_s, 3),
        "was_loaded": was_loaded,
        "pinned": host.pinned,
        "keep_alive_s": keep_alive_on_wire(host.keep_alive_s),
    }


def keep_alive_on_wire(keep_alive_s: float) -> float:
    """Return a keep-alive time as the protocol has it: -1 is forever."""
    return -1 if math.isinf(keep_alive_s) else keep_alive_s


def meant(ref: ModelRef, target: Mapping[str, Any]) -> bool:
    """Whether `unload` means this model: by name, by folder and adapter, or by a folder above."""
    if ref.name == target.get("name"):
        return True
    if under := target.get("under"):
        return under == "/" or ref.path == under or ref.path.startswith(f"{under}/")
    return ref.path == target.get("path") and ref.adapter == target.get("adapter")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
