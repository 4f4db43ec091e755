"""Which models are in memory: loading one at a time, making room first, letting go when idle."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine import memory, residency
from mlxd.daemon.engine.job import ModelRef
from mlxd.daemon.engine.mlx_models import Host, Loader
from mlxd.daemon.engine.mlx_prepare import Tokenizer
from mlxd.daemon.engine.mlx_preparer import Preparer, TokenizerReady
from mlxd.daemon.engine.model_files import check_folder, estimate_resident_bytes
from mlxd.protocol.errors import OutOfMemory

PRESSURE_POLL_S = 2.0


@dataclass(slots=True)
class Loading:
    """A model that somebody waits for. `weights` is set once there is room and reading began."""

    ref: ModelRef
    keep_alive_s: float | None = None
    pin: bool = False
    requested_s: float = field(default_factory=time.monotonic)
    weights: Loader | None = None
    weights_done: bool = False
    tokenizer: Tokenizer | None = None


@dataclass(slots=True)
class Residents:
    """Resident models and those to come.

    `requests(key)` counts the jobs of a model; `on_gone(host)` is told before one is let go.
    """

    preparer: Preparer
    budget_bytes: int
    default_keep_alive_s: float
    requests: Callable[[str], int]
    on_gone: Callable[[Host], None]
    hosts: dict[str, Host] = field(default_factory=dict)
    loading: dict[str, Loading] = field(default_factory=dict)
    loaded_total: int = 0
    evicted_total: int = 0
    _queue: deque[str] = field(default_factory=deque)
    _pressure_checked_s: float = 0.0

    def want(self, ref: ModelRef, keep_alive_s: float | None = None, pin: bool = False) -> bool:
        """Ask for a model; returns whether it is resident. Asking twice loads it once.

        Raises:
            MlxdError: the folder cannot be a model.
        """
        if host := self.hosts.get(ref.key):
            if keep_alive_s is not None:
                host.keep_alive_s = _forever_as_inf(keep_alive_s)
            host.pinned = host.pinned or pin
            return True
        if ref.key not in self.loading:
            check_folder(Path(ref.path))
            self.loading[ref.key] = Loading(ref, keep_alive_s, pin)
            self._queue.append(ref.key)
            self.preparer.load(ref)
        return False

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
    def busy(self) -> bool:
        """Whether weights are waiting to be read."""
        return any(not self.loading[key].weights_done for key in self._queue)

    def advance(self) -> Host | None:
        """Read a slice of the next model; returns a model that became complete.

        Raises:
            MlxdError: the first model in the queue cannot be loaded; `failed_key` names it.
        """
        while self._queue and self.loading[self._queue[0]].weights_done:
            self._queue.popleft()
        if not self._queue:
            return None
        loading = self.loading[self._queue[0]]
        if loading.weights is None:
            if not self._make_room(loading):
                return None
            loading.weights = Loader(loading.ref, self._base_of(loading.ref))
        loading.weights_done = loading.weights.advance()
        return self._complete(loading) if loading.weights_done else None

    @property
    def first_in_queue(self) -> str:
        return self._queue[0]

    def drop_loading(self, key: str) -> None:
        """Forget a load that failed or is no longer wanted."""
        self.loading.pop(key, None)
        if key in self._queue:
            self._queue.remove(key)

    def let_go(self, key: str) -> None:
        """Free a model's memory."""
        host = self.hosts.pop(key)
        self.on_gone(host)
        if not any(other.ref.path == host.ref.path for other in self.hosts.values()):
            self.preparer.forget(host.ref.path)
        del host
        mx.clear_cache()

    def expire(self) -> list[str]:
        """Let idle models go whose time is up, or for which the machine has no memory left."""
        now_s = time.monotonic()
        gone = list(residency.expired(self._view(), now_s))
        if now_s - self._pressure_checked_s >= PRESSURE_POLL_S:
            self._pressure_checked_s = now_s
            level = memory.pressure()
            if level != "normal":
                mx.clear_cache()
                gone += residency.under_pressure(self._view(), level, now_s)
        gone = list(dict.fromkeys(gone))
        for key in gone:
            self.let_go(key)
        self.evicted_total += len(gone)
        return gone

    def next_expiry_s(self) -> float:
        """Return the seconds until a model's time is up; infinite where none ever is."""
        when = residency.next_expiry_s(self._view())
        return math.inf if when is None else max(0.0, when - time.monotonic())

    def weights_bytes(self) -> int:
        """Return the bytes of all resident weights."""
        return sum(host.bytes for host in self.hosts.values())

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
                "keep_alive_s": -1 if math.isinf(host.keep_alive_s) else host.keep_alive_s,
                "pinned": host.pinned,
                "requests": self.requests(key),
                "batches": host.mergeable,
                "context_tokens": host.tokenizer.context_tokens,
            }
            for key, host in self.hosts.items()
        ]

    def _complete(self, loading: Loading) -> Host | None:
        if not (loading.weights_done and loading.tokenizer and loading.weights):
            return None
        host = loading.weights.host(loading.tokenizer, self.default_keep_alive_s)
        host.keep_alive_s = _forever_as_inf(
            host.keep_alive_s if loading.keep_alive_s is None else loading.keep_alive_s
        )
        host.pinned = host.pinned or loading.pin
        host.load_s = time.monotonic() - loading.requested_s
        self.drop_loading(loading.ref.key)
        self.hosts[loading.ref.key] = host
        self.loaded_total += 1
        return host

    def _make_room(self, loading: Loading) -> bool:
        """Evict what must go. False: wait, it fits when running requests are done."""
        need = 0 if self._base_of(loading.ref) else estimate_resident_bytes(Path(loading.ref.path))
        now_s = time.monotonic()
        plan = residency.plan_load(self._view(), need, self.budget_bytes, now_s)
        if plan.fits:
            for key in plan.evict:
                self.let_go(key)
                self.evicted_total += 1
            return True
        quiet = [replace(resident, requests=0) for resident in self._view()]
        if residency.plan_load(quiet, need, self.budget_bytes, now_s).fits:
            return False
        held = self.weights_bytes()
        raise OutOfMemory(
            f"{loading.ref.name} needs about {_gigabytes(need)} and the budget is "
            f"{_gigabytes(self.budget_bytes)}, of which {_gigabytes(held)} cannot be freed.",
            data={"need_bytes": need, "budget_bytes": self.budget_bytes, "held_bytes": held},
        )

    def _base_of(self, ref: ModelRef) -> Host | None:
        """Return a resident model with the same weights, for an adapter to share."""
        if ref.adapter is None:
            return None
        return self.hosts.get(replace(ref, adapter=None).key)

    def _view(self) -> list[residency.Resident]:
        return [
            residency.Resident(
                key=key,
                bytes=host.bytes,
                last_used_s=host.last_used_s,
                keep_alive_s=host.keep_alive_s,
                pinned=host.pinned,
                requests=self.requests(key),
                kv_bytes=0,
            )
            for key, host in self.hosts.items()
        ]


def _forever_as_inf(keep_alive_s: float) -> float:
    return math.inf if keep_alive_s < 0 else keep_alive_s


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
