"""Builds requests: method, parameters, and the type of the result. Both clients use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mlxd.client import results
from mlxd.client.results import Completion

T = TypeVar("T")
Messages = Sequence[dict[str, Any]]
Params = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A request that is not sent yet. `of` converts the raw result to its type."""

    method: str
    params: Params
    of: Callable[[Any], T]


def as_messages(prompt: str | Messages, system: str | None = None) -> list[dict[str, Any]]:
    """Return a list of messages from a question or a conversation."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def chat(messages: str | Messages, system: str | None, params: Params) -> Ask[Completion]:
    return Ask("chat", {"messages": as_messages(messages, system), **params}, Completion.of)


def generate(prompt: str | Sequence[int], params: Params) -> Ask[Completion]:
    given = prompt if isinstance(prompt, str) else list(prompt)
    return Ask("generate", {"prompt": given, **params}, Completion.of)


def fill(prefix: str, suffix: str, params: Params) -> Ask[Completion]:
    return Ask("fill", {"prefix": prefix, "suffix": suffix, **params}, Completion.of)


def prefill(messages: str | Messages | None, params: Params) -> Ask[results.Prefilled]:
    given = {} if messages is None else {"messages": as_messages(messages)}
    return Ask("prefill", {**given, **params}, results.Prefilled.of)


def tokenize(text: str | None, params: Params) -> Ask[list[int]]:
    return Ask("tokenize", {"text": text, **params}, lambda raw: list(raw["tokens"]))


def detokenize(tokens: Sequence[int], params: Params) -> Ask[str]:
    return Ask("detokenize", {"tokens": list(tokens), **params}, lambda raw: str(raw["text"]))


def load(model: str | None, params: Params) -> Ask[results.Loaded]:
    return Ask("load", {"model": model, **params}, results.Loaded.of)


def unload(model: str | None) -> Ask[results.Unloaded]:
    return Ask("unload", {"model": model}, results.Unloaded.of)


def ps() -> Ask[tuple[results.LoadedModel, ...]]:
    return Ask("ps", {}, lambda raw: tuple(map(results.LoadedModel.of, raw["models"])))


def status() -> Ask[results.Status]:
    return Ask("status", {}, results.Status.of)


def metrics() -> Ask[str]:
    return Ask("metrics", {}, lambda raw: str(raw["text"]))


def ping() -> Ask[bool]:
    return Ask("ping", {}, lambda raw: bool(raw["pong"]))


def hello() -> Ask[results.Hello]:
    return Ask("hello", {}, results.Hello.of)


def shutdown(drain_s: float | None, resume: bool | None) -> Ask[None]:
    return Ask("shutdown", {"drain_s": drain_s, "resume": resume}, lambda _: None)


# ---- models


def models_list() -> Ask[results.ModelList]:
    return Ask("models.list", {}, results.ModelList.of)


def models_show(model: str | None) -> Ask[results.Model]:
    return Ask("models.show", {"model": model}, results.Model.of)


def models_pull(model: str, params: Params) -> Ask[results.Model]:
    return Ask("models.pull", {"model": model, **params}, results.Model.of)


def models_convert(model: str, params: Params) -> Ask[results.Model]:
    return Ask("models.convert", {"model": model, **params}, results.Model.of)


def models_import(path: str | None) -> Ask[results.Import]:
    return Ask("models.import", {"path": path}, results.Import.of)


def models_search(query: str | None, params: Params) -> Ask[results.HubModels]:
    return Ask("models.search", {"query": query, **params}, results.HubModels.of)


def models_remove(model: str) -> Ask[results.Removed]:
    return Ask("models.remove", {"model": model}, results.Removed.of)


def models_default(model: str) -> Ask[results.DefaultModel]:
    return Ask("models.default", {"model": model}, results.DefaultModel.of)


def models_alias(alias: str, model: str | None) -> Ask[None]:
    return Ask("models.alias", {"alias": alias, "model": model}, lambda _: None)


# ---- conversations


def _conversations(raw: Any) -> tuple[results.Conversation, ...]:
    return tuple(map(results.Conversation.of, raw["conversations"]))


def conversations_list(
    limit: int | None, offset: int | None, scope: str | None
) -> Ask[tuple[results.Conversation, ...]]:
    params = {"limit": limit, "offset": offset, "scope": scope}
    return Ask("conversations.list", params, _conversations)


def conversations_show(id: str) -> Ask[results.Conversation]:
    return Ask("conversations.show", {"id": id}, results.Conversation.of)


def conversations_search(query: str, limit: int | None) -> Ask[tuple[results.Conversation, ...]]:
    return Ask("conversations.search", {"query": query, "limit": limit}, _conversations)


def conversations_import(conversations: Sequence[Any]) -> Ask[int]:
    params = {"conversations": list(conversations)}
    return Ask("conversations.import", params, lambda raw: int(raw["imported"]))


def conversations_truncate(id: str, turns: int) -> Ask[int]:
    return Ask(
        "conversations.truncate", {"id": id, "turns": turns}, lambda raw: int(raw["removed"])
    )


def conversations_remove(id: str | None, everything: bool) -> Ask[int]:
    params = {"id": id, "all": everything or None}
    return Ask("conversations.remove", params, lambda raw: int(raw["removed"]))
