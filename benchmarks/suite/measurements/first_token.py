"""Measures the warm time to first token for prompts that are not cached."""

from __future__ import annotations

from collections.abc import Iterator

from suite.contenders.several import warm
from suite.figures import in_turn, rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record

ANSWER_TOKENS = 4

LIMIT_S = 240


def measure(plan: Plan) -> Iterator[Record]:
    models = [*plan.main_models, *plan.more_models]
    some = [model for model in models if plan.prompt_tokens(model)]
    yield from plan.each(plan.in_time(some, LIMIT_S), _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("first_token", model.name)
    with warm(plan, model) as contenders:
        for tokens in plan.prompt_tokens(model):
            for turn in rounds(plan.case_s, plan.least_rounds, 2 * plan.most_rounds):
                prompt = model.prompt(tokens, f"{tokens}.{turn}")
                for contender in in_turn(contenders, turn):
                    trace = contender.run([prompt], ANSWER_TOKENS)[0]
                    found.add(str(tokens), contender.name, "s", trace.first_s)
    return found.records()
