"""Time and memory as conversations get longer and more models are loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from suite import recipes
from suite.contenders.daemon import Mlxd
from suite.figures import in_turn, rounds
from suite.machine import resident_bytes
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Trace, drive

NAME = "mlxd"
ANSWER_TOKENS = 24
RESIDENTS = (1, 2, 4, 8)


def measure(plan: Plan) -> Iterator[Record]:
    model = recipes.ALL["pocket"]
    recipes.build(model)
    yield from conversation(plan, model)
    yield from residents(plan, model)


def conversation(plan: Plan, model: Model) -> Iterator[Record]:
    """Measure the next turn of conversations of several lengths: first token, speed, and memory."""
    found = Collector("growth", model.name)
    lengths = (0, 1000, 4000) if plan.quick else (0, 1000, 2000, 4000, 8000, 12000)
    with Mlxd(model) as mlxd:
        histories = {length: model.prompt(length, f"h{length}") if length else ""
                     for length in lengths}  # fmt: skip
        for length, history in histories.items():
            if history:
                drive([mlxd.call(history, 2)])
                # Repeated, so that the whole prompt is cached, wherever it was cut before.
                drive([mlxd.call(f"{history} a", 2)])
            case = f"{length} tokens before"
            found.add(case, f"{NAME}, engine", "bytes", resident_bytes(mlxd.engine_pid()))
        for turn in rounds(2 * plan.case_s, plan.least_rounds, 10):
            for length in in_turn(lengths, turn):
                question = model.prompt(16, f"q{length}.{turn}")
                call = mlxd.call(f"{histories[length]} {question}", ANSWER_TOKENS)
                trace = drive([call])[0]
                case = f"{length} tokens before"
                found.add(case, f"{NAME}, first token", "s", trace.first_s)
                found.add(case, f"{NAME}, per token", "s", per_token_s(trace))
                cached = call.result["usage"]["cached_tokens"]
                found.add(case, f"{NAME}, tokens from the cache", "tokens", cached)
    yield from found.records()


def residents(plan: Plan, model: Model) -> Iterator[Record]:
    """Measure the same request with one, two, four and eight loaded models."""
    found = Collector("growth", model.name)
    with Mlxd(model) as mlxd:
        copies = _copies(model, mlxd.folder, max(RESIDENTS) - 1)
        loaded = 1
        for wanted in RESIDENTS:
            for copy in copies[loaded - 1 : wanted - 1]:
                answer = mlxd.ask("load", model=copy)
                if "error" in answer:
                    raise RuntimeError(answer["error"])
            loaded = wanted
            case = f"{wanted} resident" if wanted > 1 else "1 resident"
            found.add(case, f"{NAME}, engine", "bytes", resident_bytes(mlxd.engine_pid()))
            for turn in rounds(plan.case_s / 4, plan.least_rounds, 15):
                call = mlxd.call(model.prompt(16, f"r{wanted}.{turn}"), ANSWER_TOKENS)
                trace = drive([call])[0]
                found.add(case, f"{NAME}, first token", "s", trace.first_s)
                found.add(case, f"{NAME}, per token", "s", per_token_s(trace))
    yield from found.records()


def per_token_s(trace: Trace) -> float:
    return (trace.arrivals_s[-1] - trace.arrivals_s[0]) / (ANSWER_TOKENS - 1)


def _copies(model: Model, folder: Path, count: int) -> list[str]:
    """Copy the model's folder under other names. Weights are hard links."""
    made = []
    for number in range(count):
        copy = folder / f"copy-{number}"
        shutil.copytree(model.path, copy, copy_function=_link)
        made.append(str(copy))
    return made


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)
