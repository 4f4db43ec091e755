"""Measures first tokens and streams beside busy processes, and first tokens beside huge prompts.

A BLAS whose threads wait in busy loops needs minutes for a first token beside busy processes. mlxd
refuses huge prompts, which must not delay the small prompts of others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager

from suite.contenders.base import Contender, SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.inprocess import InProcess
from suite.contenders.several import warm
from suite.figures import in_turn, rounds
from suite.measurements.streams import rate
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Traffic

QUIET, BUSY = "first token, quiet", "first token, busy"
STREAM_QUIET, STREAM_BUSY = "stream, quiet", "stream, busy"
FRESH = "first token after the first load of a new home"
HUGE_PROMPTS, HUGE_WORDS = 20, 2_000_000
ALONE, BESIDE_HUGE = "one token, alone", f"one token, beside {HUGE_PROMPTS} prompts of 8 MB"
WHILE_SENT = f"one token, while {HUGE_PROMPTS} prompts of 8 MB are sent"
PROMPT_TOKENS, STREAM_TOKENS = 32, 24
FRESH_HOMES = 3
SPIN = [sys.executable, "-S", "-c", "while True: pass"]


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("busy", model.name)
    with warm(plan, model, (InProcess, Mlxd)) as contenders:
        for turn in rounds(3 * plan.case_s, 5, 20):
            for contender in in_turn(contenders, turn):
                _stream(found, contender, model, (QUIET, STREAM_QUIET), turn)
            with busy_cores():
                for contender in in_turn(contenders, turn):
                    _stream(found, contender, model, (BUSY, STREAM_BUSY), turn)
        for contender in contenders:
            if isinstance(contender, SocketContender):
                for turn in range(5):
                    _beside_huge(found, contender, model, turn)
                    _while_sent(found, contender, model, turn)
    for turn in range(FRESH_HOMES):
        _fresh(found, model, turn)
    return found.records()


def _stream(
    found: Collector, contender: Contender, model: Model, cases: tuple[str, str], turn: int
) -> None:
    """Record the time to the first token and the tokens per second of one stream."""
    prompt = model.prompt(PROMPT_TOKENS, f"{cases[0]}.{turn}")
    trace = contender.run([prompt], STREAM_TOKENS)[0]
    found.add(cases[0], contender.name, "s", trace.first_s)
    found.add(cases[1], contender.name, "tokens/s", rate([trace]))


def _beside_huge(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    """Record a small request alone, and one sent right after the huge prompts."""
    alone = contender.call(model.prompt(PROMPT_TOKENS, f"alone.{turn}"), 1)
    with Traffic() as traffic:
        traffic.start(alone)
        traffic.finish()
        for number in range(HUGE_PROMPTS):
            traffic.start(contender.call(f"{number} " + "word" * HUGE_WORDS, 1))
        small = contender.call(model.prompt(PROMPT_TOKENS, f"small.{turn}"), 1)
        traffic.start(small)
        traffic.run_until(lambda: small.done)
    found.add(ALONE, contender.name, "s", alone.trace.first_s)
    found.add(BESIDE_HUGE, contender.name, "s", small.trace.first_s)


def _while_sent(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    """Record a small request while all huge prompts are being sent, each by a thread."""
    calls = [contender.call(f"{n} " + "word" * HUGE_WORDS, 1) for n in range(HUGE_PROMPTS)]
    requests = [(call.connect(), call.request()) for call in calls]
    with ExitStack() as stack, Traffic() as traffic:
        pool = stack.enter_context(ThreadPoolExecutor(HUGE_PROMPTS))
        sending = [pool.submit(sock.sendall, data) for sock, data in requests]
        small = contender.call(model.prompt(PROMPT_TOKENS, f"sent.{turn}"), 1)
        traffic.start(small)
        traffic.run_until(lambda: small.done)
        wait(sending)
        for sock, _ in requests:
            stack.callback(sock.close)
    found.add(WHILE_SENT, contender.name, "s", small.trace.first_s)


def _fresh(found: Collector, model: Model, turn: int) -> None:
    """Record the first token of a daemon without compiled kernels."""
    with Mlxd(model) as contender:
        assert isinstance(contender, Mlxd)
        trace = contender.run([model.prompt(PROMPT_TOKENS, f"fresh.{turn}")], STREAM_TOKENS)[0]
        found.add(FRESH, contender.name, "s", trace.first_s)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with a process in its own session, as terminals have."""
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            process = stack.enter_context(subprocess.Popen(SPIN, start_new_session=True))
            stack.callback(process.kill)
        yield
