"""Calls of the front that change nothing: loaded models, figures, a canary, tokenizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import Link
from mlxd.daemon.engine.models.manager import Residents
from mlxd.daemon.engine.request import ModelRef
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.scheduler import State
from mlxd.daemon.engine.tokenization import worker
from mlxd.daemon.engine.tokenization.worker import Preparer
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Request


class Rpc:
    """`calls` has the method of every such call."""

    def __init__(
        self,
        *,
        link: Link,
        requests: ActiveRequests,
        residents: Residents,
        runner: Runner,
        prefixes: PrefixCache,
        preparer: Preparer,
    ) -> None:
        self._link = link
        self._requests = requests
        self._residents = residents
        self._runner = runner
        self._prefixes = prefixes
        self._preparer = preparer
        self.calls: dict[str, Callable[[Request], None]] = {
            "ps": self._ps,
            "stats": self._stats,
            "canary": self._canary,
            "tokenize": self._tokenize,
            "detokenize": self._detokenize,
        }

    def _ps(self, request: Request) -> None:
        self._link.answer(request.id, {"models": self._residents.records()})

    def _canary(self, request: Request) -> None:
        """Compute one token of every loaded model: after a sleep a device may be gone."""
        for host in self._residents.hosts.values():
            mx.eval(host.model(mx.array([[0]]))[0, -1, :1])
        self._link.answer(request.id, {"models": len(self._residents.hosts)})

    def _stats(self, request: Request) -> None:
        """Answer with the figures of `metrics` and `status`."""
        entries = self._runner.scheduler.entries.values()
        residents = self._residents
        figures = {
            **self._requests.counters,
            "rows_decoding": len(self._runner.rows),
            "jobs": len(self._requests),
            "jobs_waiting": sum(entry.state is State.WAITING for entry in entries),
            "jobs_parked": len(self._runner.parked),
            "models_loaded_total": residents.loaded_total,
            "models_loading": len(residents.loading),
            "models_evicted_total": residents.evicted_total,
            "weights_bytes": residents.weights_bytes(),
            "active_bytes": mx.get_active_memory(),
            "peak_bytes": mx.get_peak_memory(),
            "cache_bytes": mx.get_cache_memory(),
            "budget_bytes": residents.budget_bytes,
        }
        figures.update({f"prefix_{name}": value for name, value in self._prefixes.stats().items()})
        self._link.answer(request.id, figures)

    def _tokenize(self, request: Request) -> None:
        self._with_tokenizer(request, worker.tokenize)

    def _detokenize(self, request: Request) -> None:
        self._with_tokenizer(request, worker.detokenize)

    def _with_tokenizer(self, request: Request, work: Callable[..., Any]) -> None:
        params = dict(request.params)
        ref = ModelRef.from_map(params.pop("model"))

        def done(result: Any, error: MlxdError | None) -> None:
            if error is None:
                self._link.answer(request.id, result)
            else:
                self._link.refuse(request.id, error)

        self._preparer.answer(lambda tokenizer: work(tokenizer, params), ref, done, params)
