"""The methods of the blocking client: the protocol's method table with types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mlxd.client import asks, results
from mlxd.client.asks import Ask, Messages
from mlxd.client.results import Completion
from mlxd.client.timeouts import UNSET, Timeout, _Unset

if TYPE_CHECKING:
    from mlxd.client.events import Event
    from mlxd.client.sync import Stream

T = TypeVar("T")


class Methods:
    """Typed methods. Each takes the parameters of the method table (protocol/SPEC.md) by name.

    `timeout` limits one request: a number of seconds, `Timeouts`, or None for no limit. Without
    it the client's own limits hold.
    """

    def _ask(self, ask: Ask[T], timeout: Timeout | _Unset) -> T:
        raise NotImplementedError

    def _stream(self, ask: Ask[T], timeout: Timeout | _Unset) -> Stream[Event, T]:
        raise NotImplementedError

    @property
    def models(self) -> Models:
        """The methods `models.*`."""
        return Models(self)

    @property
    def conversations(self) -> Conversations:
        """The methods `conversations.*`."""
        return Conversations(self)

    def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Completion:
        """Answer a question or a conversation."""
        return self._ask(asks.chat(messages, system, params), timeout)

    def stream_chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Stream[Event, Completion]:
        """Do as `chat` does, and return the events as they come."""
        return self._stream(asks.chat(messages, system, params), timeout)

    def generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Continue text or tokens, without a chat template."""
        return self._ask(asks.generate(prompt, params), timeout)

    def stream_generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, Completion]:
        """Do as `generate` does, and return the events as they come."""
        return self._stream(asks.generate(prompt, params), timeout)

    def fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Write what belongs between `prefix` and `suffix`."""
        return self._ask(asks.fill(prefix, suffix, params), timeout)

    def stream_fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, Completion]:
        """Do as `fill` does, and return the events as they come."""
        return self._stream(asks.fill(prefix, suffix, params), timeout)

    def prefill(
        self,
        messages: str | Messages | None = None,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> results.Prefilled:
        """Compute and keep the KV cache of a prompt: messages, or `prompt=`, or `prefix=`."""
        return self._ask(asks.prefill(messages, params), timeout)

    def tokenize(
        self, text: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> list[int]:
        """Return the tokens of a text, or of `messages=` under the chat template."""
        return self._ask(asks.tokenize(text, params), timeout)

    def detokenize(
        self, tokens: Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> str:
        """Return the text of tokens."""
        return self._ask(asks.detokenize(tokens, params), timeout)

    def load(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Loaded:
        """Load a model (None: the default one) and keep it warm."""
        return self._ask(asks.load(model, params), timeout)

    def unload(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Unloaded:
        """Free the memory of a model (None: the default one)."""
        return self._ask(asks.unload(model), timeout)

    def ps(self, *, timeout: Timeout | _Unset = UNSET) -> tuple[results.LoadedModel, ...]:
        """Return the models that are in memory."""
        return self._ask(asks.ps(), timeout)

    def status(self, *, timeout: Timeout | _Unset = UNSET) -> results.Status:
        """Return the state of the daemon."""
        return self._ask(asks.status(), timeout)

    def metrics(self, *, timeout: Timeout | _Unset = UNSET) -> str:
        """Return counters and histograms as Prometheus text."""
        return self._ask(asks.metrics(), timeout)

    def ping(self, *, timeout: Timeout | _Unset = UNSET) -> bool:
        """Return True, or raise."""
        return self._ask(asks.ping(), timeout)

    def hello(self, *, timeout: Timeout | _Unset = UNSET) -> results.Hello:
        """Return the daemon's version, capabilities and limits."""
        return self._ask(asks.hello(), timeout)

    def shutdown(
        self,
        *,
        drain_s: float | None = None,
        resume: bool | None = None,
        timeout: Timeout | _Unset = UNSET,
    ) -> None:
        """Let running requests finish for `drain_s` seconds, then end the daemon."""
        self._ask(asks.shutdown(drain_s, resume), timeout)


class Models:
    """The methods `models.*` of a client."""

    def __init__(self, client: Methods) -> None:
        self._client = client

    def list(self, *, timeout: Timeout | _Unset = UNSET) -> results.ModelList:
        """List the models on this machine."""
        return self._client._ask(asks.models_list(), timeout)

    def show(self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET) -> results.Model:
        """Return everything known about a model (None: the default one)."""
        return self._client._ask(asks.models_show(model), timeout)

    def pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Download or update a model."""
        return self._client._ask(asks.models_pull(model, params), timeout)

    def stream_pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, results.Model]:
        """Do as `pull` does, and return the events as they come."""
        return self._client._stream(asks.models_pull(model, params), timeout)

    def convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Convert or quantise a model."""
        return self._client._ask(asks.models_convert(model, params), timeout)

    def stream_convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, results.Model]:
        """Do as `convert` does, and return the events as they come."""
        return self._client._stream(asks.models_convert(model, params), timeout)

    def import_models(
        self, path: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Import:
        """Link the models in a folder (None: those of LM Studio and oMLX); nothing is copied."""
        return self._client._ask(asks.models_import(path), timeout)

    def search(
        self, query: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.HubModels:
        """Search the hub for MLX models; without a query, return popular ones that fit."""
        return self._client._ask(asks.models_search(query, params), timeout)

    def remove(self, model: str, *, timeout: Timeout | _Unset = UNSET) -> results.Removed:
        """Delete a model from the local cache."""
        return self._client._ask(asks.models_remove(model), timeout)

    def set_default(self, model: str, *, timeout: Timeout | _Unset = UNSET) -> results.DefaultModel:
        """Set the default model."""
        return self._client._ask(asks.models_default(model), timeout)

    def alias(
        self, alias: str, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> None:
        """Give a model another name; without a model, remove that name."""
        self._client._ask(asks.models_alias(alias, model), timeout)


class Conversations:
    """The methods `conversations.*` of a client."""

    def __init__(self, client: Methods) -> None:
        self._client = client

    def list(
        self,
        *,
        limit: int | None = None,
        scope: str | None = None,
        timeout: Timeout | _Unset = UNSET,
    ) -> tuple[results.Conversation, ...]:
        """List stored conversations, newest first."""
        return self._client._ask(asks.conversations_list(limit, scope), timeout)

    def show(self, id: str, *, timeout: Timeout | _Unset = UNSET) -> results.Conversation:
        """Return a conversation with its turns."""
        return self._client._ask(asks.conversations_show(id), timeout)

    def search(
        self, query: str, *, limit: int | None = None, timeout: Timeout | _Unset = UNSET
    ) -> tuple[results.Conversation, ...]:
        """Search the text of all conversations."""
        return self._client._ask(asks.conversations_search(query, limit), timeout)

    def truncate(self, id: str, turns: int = 1, *, timeout: Timeout | _Unset = UNSET) -> int:
        """Remove the last turns of a conversation; returns how many."""
        return self._client._ask(asks.conversations_truncate(id, turns), timeout)

    def remove(
        self, id: str | None = None, *, all: bool = False, timeout: Timeout | _Unset = UNSET
    ) -> int:
        """Delete a conversation, or all of them; returns how many."""
        return self._client._ask(asks.conversations_remove(id, all), timeout)
