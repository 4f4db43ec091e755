"""Stored conversations in requests, and the methods `conversations.*`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxd.daemon.front.handlers.answers import Handler, Params
from mlxd.daemon.front.recorder import full_scope
from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.daemon.front.services import Services
from mlxd.protocol.errors import InvalidParams

if TYPE_CHECKING:
    from mlxd.daemon.conversations.store import History, Turn

Message = dict[str, Any]


def new_turn(services: Services, method: str, params: Params) -> Turn | None:
    """Return the first turn of a new conversation, or None if it is not to be stored."""
    if not _stored(services, method, params):
        return None
    from mlxd.daemon.conversations.store import new_id

    return _turn(method, params, new_id())


async def continued(services: Services, method: str, params: Params) -> Turn | None:
    """Put the stored messages into the request. Return the turn that it adds, if it is stored.

    Raises:
        InvalidParams: there is no conversation to continue.
    """
    wanted, scope = params["conversation"], full_scope(params["scope"])
    kind = _kind(method, params)
    if wanted == "last" and not scope:
        raise InvalidParams("scope", "is needed to find the last conversation")
    try:
        history = await services.recorder.call(lambda store: store.history(wanted, scope, kind))
    except InvalidParams:
        if not _brings_its_own(params):
            raise
        # It was deleted meanwhile. The caller has all of its messages, so it continues under the
        # same id.
        return _turn(method, params, wanted) if _stored(services, method, params) else None
    turn = _turn(method, params, history.id) if _stored(services, method, params) else None
    if params["model"] is None:
        params["model"] = history.model
    if params.get("history", "stored") == "stored":
        _prepend(kind, params, history)
    return turn


def _brings_its_own(params: Params) -> bool:
    from mlxd.daemon.conversations.store import is_id

    return params.get("history") == "given" and is_id(params["conversation"])


def _stored(services: Services, method: str, params: Params) -> bool:
    if method not in ("chat", "generate"):
        return False
    if params["log"] is not None:
        return bool(params["log"])
    named = params["conversation"] is not None or params["scope"] is not None
    return named and services.config.conversations


def _kind(method: str, params: Params) -> str:
    chat = method == "chat" or params.get("messages") is not None
    return "chat" if chat else "generate"


def _turn(method: str, params: Params, conversation: str) -> Turn:
    from mlxd.daemon.conversations.store import Turn

    scope = full_scope(params["scope"])
    if method == "generate":
        return Turn("generate", conversation, scope, None, "", [{"content": params["prompt"]}])
    messages: list[Message] = params["messages"]
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    start = len(messages)
    while start and messages[start - 1]["role"] not in ("assistant", "system"):
        start -= 1
    return Turn("chat", conversation, scope, system, "", messages[start:])


def _prepend(kind: str, params: Params, history: History) -> None:
    before = history.messages
    if kind == "generate":
        if not isinstance(params["prompt"], str):
            raise InvalidParams("prompt", "must be text if a conversation is continued")
        params["prompt"] = "".join(str(one["content"]) for one in before) + params["prompt"]
        return
    messages = params["messages"]
    if messages[0]["role"] == "system" and before and before[0]["role"] == "system":
        before = before[1:]
    if messages[0]["role"] == "system":
        params["messages"] = [messages[0], *before, *messages[1:]]
    else:
        params["messages"] = [*before, *messages]


# ---- the methods


async def _list(services: Services, request: RequestInFlight, params: Params) -> Any:
    scope = None if params["scope"] is None else full_scope(params["scope"])
    limit, offset = params["limit"], params["offset"]
    found = await services.recorder.call(lambda store: store.recent(limit, scope, offset))
    return {"conversations": found}


async def _show(services: Services, request: RequestInFlight, params: Params) -> Any:
    return await services.recorder.call(lambda store: store.show(params["id"]))


async def _search(services: Services, request: RequestInFlight, params: Params) -> Any:
    found = await services.recorder.call(lambda s: s.search(params["query"], params["limit"]))
    return {"conversations": found}


async def _import(services: Services, request: RequestInFlight, params: Params) -> Any:
    records = params["conversations"]
    imported = await services.recorder.call(lambda store: store.add(records))
    return {"imported": imported, "skipped": len(records) - imported}


async def _truncate(services: Services, request: RequestInFlight, params: Params) -> Any:
    removed = await services.recorder.call(lambda s: s.truncate(params["id"], params["turns"]))
    return {"removed": removed}


async def _remove(services: Services, request: RequestInFlight, params: Params) -> Any:
    return {"removed": await services.recorder.call(lambda store: store.remove(params["id"]))}


HANDLERS: dict[str, Handler] = {
    "conversations.list": _list,
    "conversations.show": _show,
    "conversations.search": _search,
    "conversations.import": _import,
    "conversations.truncate": _truncate,
    "conversations.remove": _remove,
}
