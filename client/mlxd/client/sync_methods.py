"""The methods of the blocking client: the method table of the protocol, with types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mlxd.client import asks, results
from mlxd.client.asks import Ask, Messages
from mlxd.client.results import Completion
from mlxd.client.timeouts import UNSET, Timeout, _Unset

if TYPE_CHECKING:
    from mlxd.client.events import Event
    from mlxd.client.sync_stream import Stream

T = TypeVar("T")


class _AskOnce(Protocol):
    """Sends one request and returns its result."""

    def __call__(self, ask: Ask[T], timeout: Timeout | _Unset) -> T: ...


class _AskStream(Protocol):
    """Sends one request and returns its events."""

    def __call__(self, ask: Ask[T], timeout: Timeout | _Unset) -> Stream[Event, T]: ...


class Methods(ABC):
    """Typed methods. Each takes the parameters of its method in protocol/SPEC.md as keywords.

    `timeout` limits one request: a number of seconds, `Timeouts`, or None for no limit. By default
    the client's limits apply. Every method raises a subclass of `MlxdError` if the request fails.
    """

    @abstractmethod
    def _ask(self, ask: Ask[T], timeout: Timeout | _Unset) -> T:
        """Send one request and return its result."""

    @abstractmethod
    def _stream(self, ask: Ask[T], timeout: Timeout | _Unset) -> Stream[Event, T]:
        """Send one request and return its events."""

    @property
    def models(self) -> Models:
        """The methods `models.*`."""
        return Models(self._ask, self._stream)

    @property
    def conversations(self) -> Conversations:
        """The methods `conversations.*`."""
        return Conversations(self._ask, self._stream)

    def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Completion:
        """Answer a question, or a conversation given as a list of messages."""
        return self._ask(asks.chat(messages, system, params), timeout)

    def stream_chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Stream[Event, Completion]:
        """Call `chat` and return a stream of its events."""
        return self._stream(asks.chat(messages, system, params), timeout)

    def generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Continue a text or token ids, without a chat template."""
        return self._ask(asks.generate(prompt, params), timeout)

    def stream_generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, Completion]:
        """Call `generate` and return a stream of its events."""
        return self._stream(asks.generate(prompt, params), timeout)

    def fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Generate the text between `prefix` and `suffix`."""
        return self._ask(asks.fill(prefix, suffix, params), timeout)

    def stream_fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, Completion]:
        """Call `fill` and return a stream of its events."""
        return self._stream(asks.fill(prefix, suffix, params), timeout)

    def prefill(
        self,
        messages: str | Messages | None = None,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> results.Prefilled:
        """Compute and cache the KV cache of a prompt: messages, `prompt=` or `prefix=`."""
        return self._ask(asks.prefill(messages, params), timeout)

    def tokenize(
        self, text: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> list[int]:
        """Return the token ids of a text, or of `messages=` rendered with the chat template."""
        return self._ask(asks.tokenize(text, params), timeout)

    def detokenize(
        self, tokens: Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> str:
        """Return the text of token ids."""
        return self._ask(asks.detokenize(tokens, params), timeout)

    def load(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Loaded:
        """Load a model into memory. None means the default model."""
        return self._ask(asks.load(model, params), timeout)

    def unload(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Unloaded:
        """Unload a model from memory. None means the default model."""
        return self._ask(asks.unload(model), timeout)

    def ps(self, *, timeout: Timeout | _Unset = UNSET) -> tuple[results.LoadedModel, ...]:
        """Return the loaded models."""
        return self._ask(asks.ps(), timeout)

    def status(self, *, timeout: Timeout | _Unset = UNSET) -> results.Status:
        """Return the state of the daemon."""
        return self._ask(asks.status(), timeout)

    def metrics(self, *, timeout: Timeout | _Unset = UNSET) -> str:
        """Return counters and histograms in Prometheus text format."""
        return self._ask(asks.metrics(), timeout)

    def ping(self, *, timeout: Timeout | _Unset = UNSET) -> bool:
        """Test the connection. Returns True, or raises."""
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
        """Stop the daemon after its running requests, or after `drain_s` seconds."""
        self._ask(asks.shutdown(drain_s, resume), timeout)


class Models:
    """The methods `models.*` of a client."""

    def __init__(self, ask: _AskOnce, stream: _AskStream) -> None:
        self._ask = ask
        self._stream = stream

    def list(self, *, timeout: Timeout | _Unset = UNSET) -> results.ModelList:
        """List the models on this machine."""
        return self._ask(asks.models_list(), timeout)

    def show(self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET) -> results.Model:
        """Return the details of a model. None means the default model."""
        return self._ask(asks.models_show(model), timeout)

    def pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Download or update a model."""
        return self._ask(asks.models_pull(model, params), timeout)

    def stream_pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, results.Model]:
        """Call `pull` and return a stream of its progress events."""
        return self._stream(asks.models_pull(model, params), timeout)

    def convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Convert or quantise a model."""
        return self._ask(asks.models_convert(model, params), timeout)

    def stream_convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Stream[Event, results.Model]:
        """Call `convert` and return a stream of its progress events."""
        return self._stream(asks.models_convert(model, params), timeout)

    def import_models(
        self, path: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Import:
        """Link the models in a folder without copying. None: the folders of LM Studio and oMLX."""
        return self._ask(asks.models_import(path), timeout)

    def search(
        self, query: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.HubModels:
        """Search the hub for MLX models. Without a query, return popular models that fit."""
        return self._ask(asks.models_search(query, params), timeout)

    def remove(self, model: str, *, timeout: Timeout | _Unset = UNSET) -> results.Removed:
        """Delete a model from the local cache."""
        return self._ask(asks.models_remove(model), timeout)

    def set_default(self, model: str, *, timeout: Timeout | _Unset = UNSET) -> results.DefaultModel:
        """Set the default model."""
        return self._ask(asks.models_default(model), timeout)

    def alias(
        self, alias: str, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> None:
        """Add an alias for a model, or remove the alias if `model` is None."""
        self._ask(asks.models_alias(alias, model), timeout)


class Conversations:
    """The methods `conversations.*` of a client."""

    def __init__(self, ask: _AskOnce, stream: _AskStream) -> None:
        self._ask = ask
        self._stream = stream

    def list(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        scope: str | None = None,
        timeout: Timeout | _Unset = UNSET,
    ) -> tuple[results.Conversation, ...]:
        """List stored conversations, newest first. The first `offset` ones are skipped."""
        return self._ask(asks.conversations_list(limit, offset, scope), timeout)

    def show(self, id: str, *, timeout: Timeout | _Unset = UNSET) -> results.Conversation:
        """Return a conversation with its turns."""
        return self._ask(asks.conversations_show(id), timeout)

    def search(
        self, query: str, *, limit: int | None = None, timeout: Timeout | _Unset = UNSET
    ) -> tuple[results.Conversation, ...]:
        """Search the text of all conversations, best match first."""
        return self._ask(asks.conversations_search(query, limit), timeout)

    def import_conversations(
        self, conversations: Sequence[Mapping[str, Any]], *, timeout: Timeout | _Unset = UNSET
    ) -> int:
        """Store conversations that `show` returned, oldest first. Return how many were stored.

        Conversations whose id already exists are skipped.

        Raises:
            InvalidParams: an item is not a conversation. Then none is stored.
        """
        return self._ask(asks.conversations_import(conversations), timeout)

    def truncate(self, id: str, turns: int = 1, *, timeout: Timeout | _Unset = UNSET) -> int:
        """Remove the last turns of a conversation and return their number."""
        return self._ask(asks.conversations_truncate(id, turns), timeout)

    def remove(
        self, id: str | None = None, *, all: bool = False, timeout: Timeout | _Unset = UNSET
    ) -> int:
        """Delete one or all conversations and return their number."""
        return self._ask(asks.conversations_remove(id, all), timeout)
