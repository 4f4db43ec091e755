"""First token after a while in which nothing was computed: the weights must not have gone cold."""

from __future__ import annotations

import time
from collections.abc import Iterator

from suite.contenders.daemon import Mlxd
from suite.contenders.several import warm
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record

AT_ONCE = "at once"
IDLE_S = {"after 1 s": 1.0, "after 10 s": 10.0, "after 60 s": 60.0}
PROMPT_TOKENS, ANSWER_TOKENS = 32, 4
ROUNDS = 3


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("idle", model.name)
    with warm(plan, model, (Mlxd,)) as contenders:
        for turn in range(1 if plan.quick else ROUNDS):
            for case, idle_s in IDLE_S.items():
                for contender in contenders:
                    # Warm first, so that what came before does not count.
                    for name, wait_s in ((AT_ONCE, 0.0), (case, idle_s)):
                        time.sleep(wait_s)
                        prompt = model.prompt(PROMPT_TOKENS, f"{case}.{name}.{turn}")
                        trace = contender.run([prompt], ANSWER_TOKENS)[0]
                        found.add(name, contender.name, "s", trace.first_s)
    return found.records()
