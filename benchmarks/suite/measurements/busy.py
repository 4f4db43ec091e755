"""First tokens and streams beside neighbours that want the processor, or the tokenizer.

A BLAS whose threads wait in busy loops takes minutes for a first token here. Huge prompts are
refused, and must not hold up anybody's small one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from suite.contenders.base import SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.several import warm
from suite.figures import rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Traffic, drive

QUIET, BUSY = "quiet", "beside as many busy processes as cores"
HUGE_PROMPTS, HUGE_WORDS = 20, 2_000_000
BESIDE_HUGE = f"beside {HUGE_PROMPTS} prompts of 8 MB"
STREAM_TOKENS = 24
SPIN = [sys.executable, "-S", "-c", "while True: pass"]


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("busy", model.name)
    with warm(plan, model, (Mlxd,)) as contenders:
        for contender in contenders:
            assert isinstance(contender, SocketContender)
            for turn in rounds(3 * plan.case_s, 5, 20):
                _stream(found, contender, model, QUIET, turn)
                with busy_cores():
                    _stream(found, contender, model, BUSY, turn)
            for turn in range(2):
                _beside_huge(found, contender, model, turn)
    return found.records()


def _stream(
    found: Collector, contender: SocketContender, model: Model, case: str, turn: int
) -> None:
    trace = drive([contender.call(model.prompt(32, f"{case}.{turn}"), STREAM_TOKENS)])[0]
    found.add(case, contender.name, "s", trace.first_s)


def _beside_huge(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    with Traffic() as traffic:
        for number in range(HUGE_PROMPTS):
            traffic.start(contender.call(f"{number} " + "word" * HUGE_WORDS, 1))
        small = contender.call(model.prompt(32, f"small.{turn}"), 1)
        traffic.start(small)
        traffic.run_until(lambda: small.done)
    found.add(BESIDE_HUGE, contender.name, "s", small.trace.first_s)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy, each with a process in a session of its own as terminals have."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            process = stack.enter_context(subprocess.Popen(SPIN, start_new_session=True))
            stack.callback(process.kill)
        yield
