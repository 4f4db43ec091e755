"""Compares the records of a run with the project's goals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from suite.figures import ratios, summary
from suite.measurements import busy, cancel, first_byte, priority, request_sent, second_turn
from suite.records import Record, Results
from suite.tables import number

MLXD, LIMIT, SERVER = "mlxd", "in-process mlx-lm", "mlx_lm.server"
WARM_ALLOWANCE_S = 0.003


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a run meets one goal. `met` is None if it was not measured."""

    goal: str
    where: str
    measured: str
    met: bool | None


def answers(results: Results) -> list[Answer]:
    """Return the answers for all goals that were measured."""
    return [answer for ask in GOALS for answer in ask(results)]


def _models(results: Results, measurement: str) -> list[str]:
    return list(dict.fromkeys(one.model for one in results if one.measurement == measurement))


def _compare(
    goal: str, where: str, one: Record | None, other: Record | None,
    met: Callable[[float], bool], less: float = 0.0,
) -> Iterator[Answer]:  # fmt: skip
    """Answer with the median of the ratios per pair. `less` is subtracted from `one` first."""
    if one is None or other is None:
        return
    found = summary(ratios([value - less for value in one.values], other.values))
    spread = f" ({found.low:.2f}–{found.high:.2f})" if found.count > 2 else ""
    yield Answer(goal, where, f"{found.median:.2f}{spread}", met(found.median))


def request(results: Results) -> Iterator[Answer]:
    goal = "exec to request sent ≤ 0.8 × `python -c pass`"
    one, base = (
        results.find("request_sent", request_sent.SENT, name)
        for name in ("mlx ask", request_sent.BASE)
    )
    yield from _compare(goal, "", one, base, lambda ratio: ratio <= 0.8)


def first_printed(results: Results) -> Iterator[Answer]:
    goal = "exec to first byte at least 50 × sooner than `mlx_lm.generate`"
    one, base = (
        results.find("first_byte", first_byte.LOADING, name)
        for name in ("mlx_lm.generate", "mlx ask")
    )
    yield from _compare(goal, "pocket", one, base, lambda ratio: ratio >= 50)


def throughput(results: Results) -> Iterator[Answer]:
    for model in _models(results, "streams"):
        for case, other, least in (
            ("1", LIMIT, 0.97), ("8", LIMIT, 0.95),
            ("8", SERVER, 1.0 if model.endswith("4bit") or "60m" in model else 1.3),
        ):  # fmt: skip
            kind = "stream" if case == "1" else "streams"
            goal = f"{case} {kind}: tokens/s ≥ {least:g} × {other}"
            ours, theirs = (results.find("streams", case, name, model) for name in (MLXD, other))
            yield from _compare(goal, model, ours, theirs, _at_least(least))


def _at_least(least: float) -> Callable[[float], bool]:
    return lambda ratio: ratio >= least


def warm_first_token(results: Results) -> Iterator[Answer]:
    for model in _models(results, "first_token"):
        for tokens in ("16", "256", "2000"):
            goal = f"first token, {tokens} tokens of prompt: (time − 3 ms) ≤ 1.05 × in-process"
            ours, theirs = (
                results.find("first_token", tokens, name, model) for name in (MLXD, LIMIT)
            )
            yield from _compare(
                goal, model, ours, theirs, lambda ratio: ratio <= 1.05, less=WARM_ALLOWANCE_S
            )


def second(results: Results) -> Iterator[Answer]:
    for model in _models(results, "second_turn"):
        cold = results.find("second_turn", second_turn.COLD, MLXD, model, "s")
        for case, most in ((second_turn.SECOND, 0.10), (second_turn.RESTARTED, 0.20)):
            goal = f"{case}, 2,000 tokens: first token ≤ {most:.2f} × cold"
            one = results.find("second_turn", case, MLXD, model, "s")
            yield from _compare(goal, model, one, cold, _at_most(most))


def _at_most(most: float) -> Callable[[float], bool]:
    return lambda ratio: ratio <= most


def people_first(results: Results) -> Iterator[Answer]:
    for model in _models(results, "priority"):
        idle, chunk, prefill, streams = (
            results.find("priority", case, MLXD, model)
            for case in (
                priority.IDLE, priority.CHUNK, priority.DURING_PREFILL, priority.DURING_STREAMS,
            )
        )  # fmt: skip
        if idle and chunk and prefill:
            limit = summary(idle.values).median + summary(chunk.values).median
            found = summary(prefill.values).median
            measured = f"{number(found, 's')} beside {number(limit, 's')}"
            goal = "first token during an 8,000-token batch prefill ≤ idle + one chunk"
            yield Answer(goal, model, measured, found <= limit)
        goal = "first token during 16 batch streams ≤ 2 × idle"
        yield from _compare(goal, model, streams, idle, lambda ratio: ratio <= 2)


def silence(results: Results) -> Iterator[Answer]:
    for model in _models(results, "cancel"):
        for case, limit in cancel.LIMITS.items():
            one, other = (results.find("cancel", name, MLXD, model) for name in (case, limit))
            yield from _compare(f"cancel {case} ≤ {limit}", model, one, other, _at_most(1.0))


def busy_neighbours(results: Results) -> Iterator[Answer]:
    for model in _models(results, "busy"):
        cases = (
            busy.BUSY, busy.QUIET, busy.FRESH, busy.BESIDE_HUGE, busy.WHILE_SENT, busy.ALONE,
        )  # fmt: skip
        first, quiet, fresh, huge, sent, alone = (
            results.find("busy", case, MLXD, model) for case in cases
        )
        if first and quiet:
            median, worst = summary(first.values).median, max(first.values)
            goal = "worst first token beside busy processes ≤ 3 × their median"
            yield Answer(goal, model, f"{worst / median:.2f}", worst <= 3 * median)
            share = median / summary(quiet.values).median
            goal = "median first token beside busy processes ≤ 4 × quiet"
            yield Answer(goal, model, f"{share:.2f}", share <= 4)
        if fresh:
            worst = max(fresh.values)
            goal = "first token after the first load of a new home ≤ 2 s"
            yield Answer(goal, model, number(worst, "s"), worst <= 2)
        goal = "one token beside twenty prompts of 8 MB ≤ 2 × alone"
        yield from _compare(goal, model, huge, alone, _at_most(2.0))
        goal = "one token while twenty prompts of 8 MB are sent ≤ 2 × alone"
        yield from _compare(goal, model, sent, alone, _at_most(2.0))
        goal = f"stream beside busy processes: tokens/s ≥ 0.95 × {LIMIT}"
        ours, theirs = (
            results.find("busy", busy.STREAM_BUSY, name, model) for name in (MLXD, LIMIT)
        )
        yield from _compare(goal, model, ours, theirs, _at_least(0.95))


def small_front(results: Results) -> Iterator[Answer]:
    if one := results.find("memory", "idle, no model", "mlxd front"):
        weight = summary(one.values).median
        yield Answer("idle front ≤ 40 MB", "", number(weight, "bytes"), weight <= 40 * 2**20)
    if one := results.find("front", "1000 idle", "mlxd, front, more than with one"):
        weight = summary(one.values).median
        goal = "1,000 idle connections ≤ 30 MB more"
        yield Answer(goal, "", number(weight, "bytes"), weight <= 30 * 2**20)
    ping = [results.find("front", f"16 decode, {idle} idle", "mlxd, ping p99")
            for idle in (1000, 1)]  # fmt: skip
    if ping[0] and ping[1]:
        goal = "ping p99 with 1,000 idle connections while 16 streams decode: unchanged"
        found = summary(ratios(ping[0].values, ping[1].values))
        text = f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f}) × that with one"
        yield Answer(goal, "pocket", text, found.median <= 1.05)


GOALS: tuple[Callable[[Results], Iterator[Answer]], ...] = (
    request, first_printed, throughput, warm_first_token, second, people_first, silence,
    busy_neighbours, small_front,
)  # fmt: skip
