"""The gaps between tokens of running answers while new requests are prefilled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from suite.contenders.base import Contender, SocketContender
from suite.contenders.daemon import Mlxd
from suite.contenders.llama import LlamaServer
from suite.contenders.mlx_server import MlxLmServer
from suite.contenders.several import warm
from suite.figures import in_turn, quantile, rounds
from suite.plan import Plan
from suite.recipes import Model
from suite.records import Collector, Record
from suite.traffic import Trace, Traffic

KINDS: tuple[type[Contender], ...] = (Mlxd, MlxLmServer, LlamaServer)
STREAMS = 4
NEWCOMERS = ((0.15, 256), (0.4, 1000), (0.7, 256))
"""When each new request arrives, as a share of the first answer, and the tokens of its prompt."""
NEWCOMER_ANSWER_TOKENS = 8
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}


def measure(plan: Plan) -> Iterator[Record]:
    yield from plan.each(plan.main_models, _one_model)


def _one_model(plan: Plan, model: Model) -> list[Record]:
    found = Collector("gaps", model.name)
    with warm(plan, model, KINDS) as contenders:
        for turn in rounds(2 * plan.case_s, plan.least_rounds, plan.most_rounds):
            for contender in in_turn(contenders, turn):
                assert isinstance(contender, SocketContender)
                gaps = mixed_load(contender, model, plan.answer_tokens(model), str(turn))
                for name, share in QUANTILES.items():
                    found.add(name, contender.name, "s", quantile(gaps, share))
    return found.records()


def mixed_load(
    contender: SocketContender, model: Model, answer_tokens: int, key: str
) -> list[float]:
    """Return the gaps of running answers. New requests start at fixed points of the first one."""
    prompts = [model.prompt(16, f"gaps.{key}.{number}") for number in range(STREAMS)]
    running = [contender.call(prompt, answer_tokens) for prompt in prompts]
    first = running[0].trace
    with Traffic() as traffic:
        traffic.start(*running)
        for share, tokens in NEWCOMERS:
            traffic.run_until(_has_got(first, share * answer_tokens))
            prompt = model.prompt(tokens, f"gaps.{key}.{share}")
            traffic.start(contender.call(prompt, NEWCOMER_ANSWER_TOKENS))
        traffic.finish()
    if errors := [call.trace.error for call in running if call.trace.error]:
        raise RuntimeError(f"{contender.name}: {errors[0]}")
    return [gap for call in running for gap in call.trace.gaps_s]


def _has_got(answer: Trace, tokens: float) -> Callable[[], bool]:
    """Return a condition: the answer has that many tokens, or has ended."""
    return lambda: len(answer.arrivals_s) >= tokens or answer.end_s > 0
