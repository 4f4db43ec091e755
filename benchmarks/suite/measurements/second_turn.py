"""Measures the second turn of a 2,000-token conversation: cold, warm, and right after a restart.

The figure is the time to first token. After the restart the model is loaded before the request, so
that only the use of the KV cache on disk is measured.
"""

from __future__ import annotations

from collections.abc import Iterator

from suite import recipes
from suite.contenders.base import SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.mlx_server import MlxLmServer
from suite.contenders.several import warm
from suite.figures import rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Call, drive
from suite.wire import MlxdCall

CONVERSATION_TOKENS = 2000
QUESTION_TOKENS = 16
ANSWER_TOKENS = 8
COLD, SECOND, RESTARTED = "cold", "second turn", "after a restart"
Messages = list[dict[str, str]]


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    recipes.build(model)
    found = Collector("second_turn", model.name)
    with warm(plan, model, (Mlxd, MlxLmServer)) as contenders:
        for turn in rounds(2 * plan.case_s, plan.least_rounds, 8):
            for contender in contenders:
                assert isinstance(contender, SocketContender)
                _conversation(found, contender, model, turn)
    return found.records()


def _conversation(found: Collector, contender: SocketContender, model: Model, turn: int) -> None:
    text = model.prompt(CONVERSATION_TOKENS, f"conversation.{turn}")
    messages: Messages = [{"role": "user", "content": text}]
    cases = [COLD, SECOND]
    if isinstance(contender, Mlxd):
        cases.append(RESTARTED)
    for case in cases:
        if case == RESTARTED:
            assert isinstance(contender, Mlxd)
            contender.restart()
        call = contender.call("", ANSWER_TOKENS, messages=messages)
        found.add(case, contender.name, "s", drive([call])[0].first_s)
        if isinstance(call, MlxdCall):
            cached = call.result["usage"]["cached_tokens"]
            found.add(case, f"{contender.name}, cached tokens", "tokens", cached)
        messages = [
            *messages,
            {"role": "assistant", "content": answer_of(call)},
            {"role": "user", "content": model.prompt(QUESTION_TOKENS, f"{case}.{turn}")},
        ]


def answer_of(call: Call) -> str:
    """Return the text of an answer, joined from its pieces if the result does not contain it."""
    if isinstance(call, MlxdCall):
        return str(call.result["choices"][0]["text"])
    return "".join(getattr(call, "pieces", ()))
