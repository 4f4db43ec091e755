"""Starts several contenders at once, which then alternate."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from suite import recipes
from suite.contenders.base import Contender
from suite.contenders.daemon import Mlxd
from suite.contenders.inprocess import InProcess, InProcessLlama
from suite.contenders.llama import LlamaServer
from suite.contenders.mlx_server import MlxLmServer
from suite.contenders.vllm import VllmMlx
from suite.places import NotInstallable
from suite.plan import Plan
from suite.recipes import Model

ALL: tuple[type[Contender], ...] = (
    InProcess, Mlxd, MlxLmServer, VllmMlx, LlamaServer, InProcessLlama,
)  # fmt: skip


@contextmanager
def warm(
    plan: Plan, model: Model, kinds: Sequence[type[Contender]] = ALL
) -> Iterator[list[Contender]]:
    """Start the contenders with the model, except those that cannot be installed here."""
    with ExitStack() as stack:
        started = []
        for kind in kinds:
            if kind.name in {*plan.without, *plan.skipped} or not suits(plan, kind, model):
                continue
            try:
                recipes.build(model, gguf=kind in (LlamaServer, InProcessLlama))
                contender = stack.enter_context(kind(model))
                contender.run([model.prompt(8, "warm")], 2)
            except (NotInstallable, RuntimeError, OSError) as exc:
                if kind in (InProcess, Mlxd):
                    raise
                plan.skipped[kind.name] = str(exc)
                print(f"Without {kind.name}: {exc}", file=sys.stderr, flush=True)
                continue
            started.append(contender)
        yield started


def suits(plan: Plan, kind: type[Contender], model: Model) -> bool:
    """Whether to measure the contender with this model. Optional ones run with some models only."""
    if kind in (LlamaServer, InProcessLlama):
        return model in plan.main_models
    return kind is not VllmMlx or model == plan.main_models[0]
