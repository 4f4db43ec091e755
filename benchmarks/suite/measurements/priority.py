"""Measures an interactive request while the engine is busy with batch work.

mlxd gets the batch work with `priority: batch`. mlx_lm.server has no priorities.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from suite.contenders.base import SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.mlx_server import MlxLmServer
from suite.contenders.several import warm
from suite.figures import rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Traffic, drive
from suite.wire import MlxdCall

PREFILL_TOKENS = 8000
STREAMS = 16
AGAIN = 4
ANSWER_TOKENS = 4
IDLE, CHUNK = "idle", "one chunk of the prefill"
DURING_PREFILL = f"during a prefill of {PREFILL_TOKENS:,} tokens"
DURING_STREAMS = f"during {STREAMS} batch streams"
UNDER_WAY_S = 0.5
"""Wait before the request, for a server that reports no progress of a prefill."""


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("priority", model.name)
    # Left out for larger models: the other server's wait is only longer, and the run has a time
    # limit.
    kinds = (Mlxd, MlxLmServer) if model == plan.main_models[0] else (Mlxd,)
    with warm(plan, model, kinds) as contenders:
        for contender in contenders:
            assert isinstance(contender, SocketContender)
            # The other server finishes the whole prefill first. One measurement is enough to see
            # that.
            most = 10 if contender.name == Mlxd.name else 1
            for turn in rounds(3 * plan.case_s, min(most, 2), most):
                _one_round(found, contender, model, turn)
    return found.records()


def _one_round(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    during_prefill(found, contender, model, turn)
    # Short, so that several fit into the prefill of one long prompt.
    for again in range(AGAIN if contender.name == Mlxd.name else 1):
        key = f"{turn}.{again}"
        idle = contender.call(model.prompt(16, f"idle.{key}"), ANSWER_TOKENS)
        found.add(IDLE, contender.name, "s", drive([idle])[0].first_s)
        during_streams(found, contender, model, key)


def during_prefill(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    prompt = model.prompt(PREFILL_TOKENS, f"long.{turn}")
    long = contender.call(prompt, 1, **batch(contender))
    person = contender.call(model.prompt(16, f"person.{turn}"), ANSWER_TOKENS)
    with Traffic() as traffic:
        traffic.start(long)
        begin_prefill(traffic, long)
        traffic.start(person)
        traffic.run_until(lambda: person.done)
        traffic.run_until(lambda: long.done)
    check(person.trace.error, long.trace.error)
    found.add(DURING_PREFILL, contender.name, "s", person.trace.first_s)
    if isinstance(long, MlxdCall):
        # Without the steps that served the interactive request.
        times = [one for one in long.saw("prefill") if one > person.trace.end_s]
        chunks = [b - a for a, b in itertools.pairwise(times)]
        if chunks:
            found.add(CHUNK, contender.name, "s", max(chunks))


def during_streams(found: Collector, contender: SocketContender, model: Model, key: str) -> None:
    prompts = [model.prompt(16, f"stream.{key}.{number}") for number in range(STREAMS)]
    work = [contender.call(prompt, 4000, **batch(contender)) for prompt in prompts]
    person = contender.call(model.prompt(16, f"between.{key}"), ANSWER_TOKENS)
    with Traffic() as traffic:
        traffic.start(*work)
        # One in some hundred answers of pocket has tokens but no text.
        traffic.run_until(lambda: sum(len(one.trace.arrivals_s) > 2 for one in work) > STREAMS - 2)
        traffic.start(person)
        traffic.run_until(lambda: person.done)
        traffic.hang_up(work)
    check(person.trace.error, *(one.trace.error for one in work))
    found.add(DURING_STREAMS, contender.name, "s", person.trace.first_s)
    settle(contender, model)


def begin_prefill(traffic: Traffic, long: Any) -> None:
    """Wait until the prompt is being prefilled."""
    if isinstance(long, MlxdCall):
        traffic.run_until(lambda: bool(long.saw("prefill")))
        return
    limit_s = time.monotonic() + UNDER_WAY_S
    while (left_s := limit_s - time.monotonic()) > 0:
        time.sleep(left_s)


def settle(contender: SocketContender, model: Model) -> None:
    """Wait until cancelled work has ended, by sending a short request."""
    drive([contender.call(model.prompt(8, "settle"), 2)])


def batch(contender: SocketContender) -> dict[str, Any]:
    return {"priority": "batch"} if isinstance(contender, Mlxd) else {}


def check(*errors: str) -> None:
    if found := [error for error in errors if error]:
        raise RuntimeError(found[0])
