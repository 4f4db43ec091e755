"""The front's calls that change no state: loaded models, metrics, self-test, tokenizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import Link
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.prompt import parse_prompt
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.scheduler import State
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.daemon.engine.tokenization.worker import Preparer, detokenize, tokenize
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Request


class Rpc:
    """`calls` maps each method to its handler."""

    def __init__(
        self,
        *,
        link: Link,
        requests: ActiveRequests,
        models: ModelManager,
        runner: Runner,
        prefixes: PrefixCache,
        preparer: Preparer,
    ) -> None:
        self._link = link
        self._requests = requests
        self._models = models
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

    def _ps(self, call: Request) -> None:
        self._link.answer(call.id, {"models": self._models.records()})

    def _canary(self, call: Request) -> None:
        """Compute one token of every loaded model. The device may be unusable after a sleep."""
        for loaded in self._models.loaded.values():
            mx.eval(loaded.model(mx.array([[0]]))[0, -1, :1])
        self._link.answer(call.id, {"models": len(self._models.loaded)})

    def _stats(self, call: Request) -> None:
        """Return the figures of `metrics` and `status`."""
        entries = self._runner.scheduler.entries.values()
        models = self._models
        figures = {
            **self._requests.counters,
            "rows_decoding": len(self._runner.sequences),
            "jobs": len(self._requests),
            "jobs_waiting": sum(entry.state is State.WAITING for entry in entries),
            "jobs_parked": len(self._runner.preempted),
            "models_loaded_total": models.loaded_total,
            "models_loading": len(models.loading),
            "models_evicted_total": models.evicted_total,
            "weights_bytes": models.weights_bytes(),
            "active_bytes": mx.get_active_memory(),
            "peak_bytes": mx.get_peak_memory(),
            "cache_bytes": mx.get_cache_memory(),
            "budget_bytes": models.budget_bytes,
        }
        figures.update({f"prefix_{name}": value for name, value in self._prefixes.stats().items()})
        self._link.answer(call.id, figures)

    def _tokenize(self, call: Request) -> None:
        prompt = parse_prompt(call.params)
        self._with_tokenizer(call, lambda one: tokenize(one, prompt), prompt.characters)

    def _detokenize(self, call: Request) -> None:
        tokens = tuple(call.params["tokens"])
        self._with_tokenizer(call, lambda one: detokenize(one, tokens), len(tokens))

    def _with_tokenizer(
        self, call: Request, work: Callable[[Tokenizer], Any], characters: int
    ) -> None:
        def done(result: Any, error: MlxdError | None) -> None:
            if error is None:
                self._link.answer(call.id, result)
            else:
                self._link.refuse(call.id, error)

        self._preparer.answer(work, ModelRef.from_map(call.params["model"]), done, characters)
