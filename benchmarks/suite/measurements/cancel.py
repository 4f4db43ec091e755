"""The time from a cancel to the end of the request, compared with one step or chunk."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

from suite import recipes
from suite.contenders.daemon import Mlxd
from suite.figures import rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Traffic
from suite.wire import MlxdCall

NAME = Mlxd.name
PREFILL_TOKENS = 8000
READING = "while a prompt is read"
LIMITS = {
    "while 1 decode": "one step of 1",
    "while 8 decode": "one step of 8",
    READING: "one chunk",
}
"""The measured time that each cancel may take: the step or chunk that was running."""


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    recipes.build(model)
    found = Collector("cancel", model.name)
    with Mlxd(model) as mlxd:
        for turn in rounds(plan.case_s, plan.least_rounds, 30):
            for streams in (1, 8):
                decoding(found, mlxd, model, streams, turn)
        for turn in rounds(plan.case_s, plan.least_rounds, 15):
            prefilling(found, mlxd, model, turn)
    return found.records()


def decoding(found: Collector, mlxd: Mlxd, model: Model, streams: int, turn: int) -> None:
    prompts = [model.prompt(16, f"cancel.{streams}.{turn}.{number}") for number in range(streams)]
    calls = [mlxd.call(prompt, 4000) for prompt in prompts]
    one = calls[0]
    with Traffic() as traffic:
        traffic.start(*calls)
        # Varied, so that it is not always at the same point of a step.
        traffic.run_until(lambda: len(one.trace.arrivals_s) >= 12 + turn % 5)
        taken_s = cancel(traffic, one)
        traffic.hang_up(calls)
    found.add(f"while {streams} decode", NAME, "s", taken_s)
    found.add(f"one step of {streams}", NAME, "s", statistics.median(one.trace.gaps_s[2:]))
    mlxd.daemon.wait_idle()


def prefilling(found: Collector, mlxd: Mlxd, model: Model, turn: int) -> None:
    call = mlxd.call(model.prompt(PREFILL_TOKENS, f"cancel.{turn}"), 1)
    with Traffic() as traffic:
        traffic.start(call)
        traffic.run_until(lambda: len(call.saw("prefill")) >= 3)
        taken_s = cancel(traffic, call)
    times = call.saw("prefill")
    found.add(READING, NAME, "s", taken_s)
    found.add("one chunk", NAME, "s", max(b - a for a, b in itertools.pairwise(times)))


def cancel(traffic: Traffic, call: MlxdCall) -> float:
    """Return the seconds from the cancel to the response that ends the request."""
    started = time.perf_counter()
    call.cancel()
    traffic.run_until(lambda: call.done)
    if not call.trace.error.startswith("cancelled"):
        raise RuntimeError(f"not cancelled: {call.trace.error or 'it was answered'}")
    return call.trace.end_s - started
