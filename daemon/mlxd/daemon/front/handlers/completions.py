"""The methods that need a model: completions, and calls of its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlxd.daemon.front.handlers import conversations
from mlxd.daemon.front.handlers.answers import LATER, Answer, Handler, Params
from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.daemon.front.services import Services
from mlxd.daemon.models.catalog import ModelRef
from mlxd.daemon.prompt_bound import PromptTexts
from mlxd.protocol.errors import ContextOverflow

if TYPE_CHECKING:
    from mlxd.daemon.conversations.store import Turn


def _complete(method: str) -> Handler:
    def handler(services: Services, request: RequestInFlight, params: Params) -> Answer:
        if params.get("conversation") not in (None, "new"):
            return _continue(services, request, method, params)
        model = services.models.known(services.catalog, params)
        if model is None:
            return _find_first(services, request, method, params)
        turn = conversations.new_turn(services, method, params)
        _submit(services, request, method, params, turn, model)
        return LATER

    return handler


async def _find_first(
    services: Services, request: RequestInFlight, method: str, params: Params
) -> Answer:
    model = await services.models.find(services.catalog, params)
    turn = conversations.new_turn(services, method, params)
    _submit(services, request, method, params, turn, model)
    return LATER


async def _continue(
    services: Services, request: RequestInFlight, method: str, params: Params
) -> Answer:
    """Add the stored turns of the conversation."""
    # While a request's model is looked up on disk, the next request of its conversation waits.
    async with services.recorder.in_order(params["conversation"], params["scope"]):
        turn = await conversations.continued(services, method, params)
        model = await services.models.find(services.catalog, params)
        _submit(services, request, method, params, turn, model)
    return LATER


def _submit(
    services: Services,
    request: RequestInFlight,
    method: str,
    params: Params,
    turn: Turn | None,
    model: ModelRef,
) -> None:
    _check_size(services, model, params)
    if turn is not None:
        turn = replace(turn, model=model.name)
    services.supervisor.check_health()
    services.requests.submit(request, method, params, model.to_map(), turn)


def _check_size(services: Services, model: ModelRef, params: Params) -> None:
    """Refuse a prompt that cannot fit.

    In the engine's link, other requests would wait behind it.
    """
    bound = services.supervisor.prompt_bounds.get(str(model.path))
    try:
        if bound is not None:
            bound.check(model.name, PromptTexts.from_map(params))
    except ContextOverflow as error:
        services.metrics.outcomes[error.code] += 1
        raise


def _with_tokenizer(method: str) -> Handler:
    async def handler(services: Services, request: RequestInFlight, params: Params) -> Answer:
        given = {key: value for key, value in params.items() if key != "model"}
        model = (await services.models.find(services.catalog, params)).to_map()
        return await services.supervisor.call(method, {"model": model, **given})

    return handler


HANDLERS: dict[str, Handler] = {
    "chat": _complete("chat"),
    "generate": _complete("generate"),
    "fill": _complete("fill"),
    "prefill": _complete("prefill"),
    "tokenize": _with_tokenizer("tokenize"),
    "detokenize": _with_tokenizer("detokenize"),
}
