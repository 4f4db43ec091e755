"""What the front asks of an engine and changes nothing: models, figures, a sign of life, tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlxd.daemon.engine.request import ModelRef
from mlxd.daemon.engine.scheduling.scheduler import State
from mlxd.daemon.engine.tokenization import worker
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Request

if TYPE_CHECKING:
    from mlxd.daemon.engine.loop import Engine


def ps(engine: Engine, request: Request) -> None:
    """Answer with the resident models."""
    engine.link.answer(request.id, {"models": engine.residents.records()})


def canary(engine: Engine, request: Request) -> None:
    """Compute one token of every resident model: after a sleep a device may be gone."""
    for host in engine.residents.hosts.values():
        mx.eval(host.model(mx.array([[0]]))[0, -1, :1])
    engine.link.answer(request.id, {"models": len(engine.residents.hosts)})


def stats(engine: Engine, request: Request) -> None:
    """Answer with the figures of `metrics` and `status`."""
    waiting = sum(e.state is State.WAITING for e in engine.scheduler.entries.values())
    figures = {
        **engine.counters,
        "rows_decoding": len(engine.runner.rows),
        "jobs": len(engine.jobs),
        "jobs_waiting": waiting,
        "jobs_parked": len(engine.runner.parked),
        "models_loaded_total": engine.residents.loaded_total,
        "models_loading": len(engine.residents.loading),
        "models_evicted_total": engine.residents.evicted_total,
        "weights_bytes": engine.residents.weights_bytes(),
        "active_bytes": mx.get_active_memory(),
        "peak_bytes": mx.get_peak_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "budget_bytes": engine.residents.budget_bytes,
    }
    figures.update({f"prefix_{name}": value for name, value in engine.prefixes.stats().items()})
    engine.link.answer(request.id, figures)


def tokenize(engine: Engine, request: Request) -> None:
    """Answer with the tokens of a text or of messages."""
    _with_tokenizer(engine, request, worker.tokenize)


def detokenize(engine: Engine, request: Request) -> None:
    """Answer with the text of tokens."""
    _with_tokenizer(engine, request, worker.detokenize)


def _with_tokenizer(engine: Engine, request: Request, work: Callable[..., Any]) -> None:
    params = dict(request.params)
    ref = ModelRef.from_map(params.pop("model"))

    def done(result: Any, error: MlxdError | None) -> None:
        if error is None:
            engine.link.answer(request.id, result)
        else:
            engine.link.refuse(request.id, error)

    engine.preparer.answer(lambda tokenizer: work(tokenizer, params), ref, done, params)
