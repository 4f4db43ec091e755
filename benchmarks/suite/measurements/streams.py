"""Measures tokens per second for 1, 2, 4, 8 and 16 concurrent streams."""

from __future__ import annotations

from collections.abc import Iterator

from suite.contenders.several import warm
from suite.figures import in_turn, rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Trace

PROMPT_TOKENS = 16
LIMIT_S = 330


def measure(plan: Plan) -> Iterator[Record]:
    models = plan.in_time([*plan.main_models, *plan.more_models], LIMIT_S)
    yield from plan.each(models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("streams", model.name)
    with warm(plan, model) as contenders:
        for streams in plan.streams(model):
            for turn in rounds(plan.case_s, plan.least_rounds, plan.most_rounds):
                prompts = [
                    model.prompt(PROMPT_TOKENS, f"{streams}.{turn}.{number}")
                    for number in range(streams)
                ]
                able = [one for one in contenders if one.streams >= streams]
                for contender in in_turn(able, turn):
                    traces = contender.run(prompts, plan.answer_tokens(model))
                    found.add(str(streams), contender.name, "tokens/s", rate(traces))
    return found.records()


def rate(traces: list[Trace]) -> float:
    """Return tokens per second from the first request to the end of the last answer."""
    taken_s = max(one.end_s for one in traces) - min(one.sent_s for one in traces)
    return sum(one.tokens for one in traces) / taken_s
