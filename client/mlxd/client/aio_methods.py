"""The methods of the asyncio client: the method table of the protocol, with types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mlxd.client import asks, results
from mlxd.client.asks import Ask, Messages
from mlxd.client.results import Completion
from mlxd.client.timeouts import UNSET, Timeout, _Unset

if TYPE_CHECKING:
    from mlxd.client.aio_stream import AsyncStream
    from mlxd.client.events import Event

T = TypeVar("T")


class _AskOnce(Protocol):
    """Sends one request and returns its result."""

    async def __call__(self, ask: Ask[T], timeout: Timeout | _Unset) -> T: ...


class _AskStream(Protocol):
    """Sends one request and returns its events."""

    def __call__(self, ask: Ask[T], timeout: Timeout | _Unset) -> AsyncStream[Event, T]: ...


class AsyncMethods(ABC):
    """Typed methods. Each takes the parameters of its method in protocol/SPEC.md as keywords.

    `timeout` limits one request: a number of seconds, `Timeouts`, or None for no limit. By default
    the client's limits apply. Every method raises a subclass of `MlxdError` if the request fails.
    """

    @abstractmethod
    async def _ask(self, ask: Ask[T], timeout: Timeout | _Unset) -> T:
        """Send one request and return its result."""

    @abstractmethod
    def _stream(self, ask: Ask[T], timeout: Timeout | _Unset) -> AsyncStream[Event, T]:
        """Send one request and return its events."""

    @property
    def models(self) -> AsyncModels:
        """The methods `models.*`."""
        return AsyncModels(self._ask, self._stream)

    @property
    def conversations(self) -> AsyncConversations:
        """The methods `conversations.*`."""
        return AsyncConversations(self._ask, self._stream)

    async def chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Completion:
        """Answer a question, or a conversation given as a list of messages."""
        return await self._ask(asks.chat(messages, system, params), timeout)

    def stream_chat(
        self,
        messages: str | Messages,
        *,
        system: str | None = None,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> AsyncStream[Event, Completion]:
        """Call `chat` and return a stream of its events."""
        return self._stream(asks.chat(messages, system, params), timeout)

    async def generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Continue a text or token ids, without a chat template."""
        return await self._ask(asks.generate(prompt, params), timeout)

    def stream_generate(
        self, prompt: str | Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> AsyncStream[Event, Completion]:
        """Call `generate` and return a stream of its events."""
        return self._stream(asks.generate(prompt, params), timeout)

    async def fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> Completion:
        """Generate the text between `prefix` and `suffix`."""
        return await self._ask(asks.fill(prefix, suffix, params), timeout)

    def stream_fill(
        self, prefix: str, suffix: str = "", *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> AsyncStream[Event, Completion]:
        """Call `fill` and return a stream of its events."""
        return self._stream(asks.fill(prefix, suffix, params), timeout)

    async def prefill(
        self,
        messages: str | Messages | None = None,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> results.Prefilled:
        """Compute and cache the KV cache of a prompt: messages, `prompt=` or `prefix=`."""
        return await self._ask(asks.prefill(messages, params), timeout)

    async def tokenize(
        self, text: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> list[int]:
        """Return the token ids of a text, or of `messages=` rendered with the chat template."""
        return await self._ask(asks.tokenize(text, params), timeout)

    async def detokenize(
        self, tokens: Sequence[int], *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> str:
        """Return the text of token ids."""
        return await self._ask(asks.detokenize(tokens, params), timeout)

    async def load(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Loaded:
        """Load a model into memory. None means the default model."""
        return await self._ask(asks.load(model, params), timeout)

    async def unload(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Unloaded:
        """Unload a model from memory. None means the default model."""
        return await self._ask(asks.unload(model), timeout)

    async def ps(self, *, timeout: Timeout | _Unset = UNSET) -> tuple[results.LoadedModel, ...]:
        """Return the loaded models."""
        return await self._ask(asks.ps(), timeout)

    async def status(self, *, timeout: Timeout | _Unset = UNSET) -> results.Status:
        """Return the state of the daemon."""
        return await self._ask(asks.status(), timeout)

    async def metrics(self, *, timeout: Timeout | _Unset = UNSET) -> str:
        """Return counters and histograms in Prometheus text format."""
        return await self._ask(asks.metrics(), timeout)

    async def ping(self, *, timeout: Timeout | _Unset = UNSET) -> bool:
        """Test the connection. Returns True, or raises."""
        return await self._ask(asks.ping(), timeout)

    async def hello(self, *, timeout: Timeout | _Unset = UNSET) -> results.Hello:
        """Return the daemon's version, capabilities and limits."""
        return await self._ask(asks.hello(), timeout)

    async def shutdown(
        self,
        *,
        drain_s: float | None = None,
        resume: bool | None = None,
        timeout: Timeout | _Unset = UNSET,
    ) -> None:
        """Stop the daemon after its running requests, or after `drain_s` seconds."""
        await self._ask(asks.shutdown(drain_s, resume), timeout)


class AsyncModels:
    """The methods `models.*` of a client."""

    def __init__(self, ask: _AskOnce, stream: _AskStream) -> None:
        self._ask = ask
        self._stream = stream

    async def list(self, *, timeout: Timeout | _Unset = UNSET) -> results.ModelList:
        """List the models on this machine."""
        return await self._ask(asks.models_list(), timeout)

    async def show(
        self, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Model:
        """Return the details of a model. None means the default model."""
        return await self._ask(asks.models_show(model), timeout)

    async def pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Download or update a model."""
        return await self._ask(asks.models_pull(model, params), timeout)

    def stream_pull(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> AsyncStream[Event, results.Model]:
        """Call `pull` and return a stream of its progress events."""
        return self._stream(asks.models_pull(model, params), timeout)

    async def convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.Model:
        """Convert or quantise a model."""
        return await self._ask(asks.models_convert(model, params), timeout)

    def stream_convert(
        self, model: str, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> AsyncStream[Event, results.Model]:
        """Call `convert` and return a stream of its progress events."""
        return self._stream(asks.models_convert(model, params), timeout)

    async def import_models(
        self, path: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> results.Import:
        """Link the models in a folder without copying. None: the folders of LM Studio and oMLX."""
        return await self._ask(asks.models_import(path), timeout)

    async def search(
        self, query: str | None = None, *, timeout: Timeout | _Unset = UNSET, **params: Any
    ) -> results.HubModels:
        """Search the hub for MLX models. Without a query, return popular models that fit."""
        return await self._ask(asks.models_search(query, params), timeout)

    async def remove(self, model: str, *, timeout: Timeout | _Unset = UNSET) -> results.Removed:
        """Delete a model from the local cache."""
        return await self._ask(asks.models_remove(model), timeout)

    async def set_default(
        self, model: str, *, timeout: Timeout | _Unset = UNSET
    ) -> results.DefaultModel:
        """Set the default model."""
        return await self._ask(asks.models_default(model), timeout)

    async def alias(
        self, alias: str, model: str | None = None, *, timeout: Timeout | _Unset = UNSET
    ) -> None:
        """Add an alias for a model, or remove the alias if `model` is None."""
        await self._ask(asks.models_alias(alias, model), timeout)


class AsyncConversations:
    """The methods `conversations.*` of a client."""

    def __init__(self, ask: _AskOnce, stream: _AskStream) -> None:
        self._ask = ask
        self._stream = stream

    async def list(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        scope: str | None = None,
        timeout: Timeout | _Unset = UNSET,
    ) -> tuple[results.Conversation, ...]:
        """List stored conversations, newest first. The first `offset` ones are skipped."""
        return await self._ask(asks.conversations_list(limit, offset, scope), timeout)

    async def show(self, id: str, *, timeout: Timeout | _Unset = UNSET) -> results.Conversation:
        """Return a conversation with its turns."""
        return await self._ask(asks.conversations_show(id), timeout)

    async def search(
        self, query: str, *, limit: int | None = None, timeout: Timeout | _Unset = UNSET
    ) -> tuple[results.Conversation, ...]:
        """Search the text of all conversations, best match first."""
        return await self._ask(asks.conversations_search(query, limit), timeout)

    async def import_conversations(
        self, conversations: Sequence[Mapping[str, Any]], *, timeout: Timeout | _Unset = UNSET
    ) -> int:
        """Store conversations that `show` returned, oldest first. Return how many were stored.

        Conversations whose id already exists are skipped.

        Raises:
            InvalidParams: an item is not a conversation. Then none is stored.
        """
        return await self._ask(asks.conversations_import(conversations), timeout)

    async def truncate(self, id: str, turns: int = 1, *, timeout: Timeout | _Unset = UNSET) -> int:
        """Remove the last turns of a conversation and return their number."""
        return await self._ask(asks.conversations_truncate(id, turns), timeout)

    async def remove(
        self, id: str | None = None, *, all: bool = False, timeout: Timeout | _Unset = UNSET
    ) -> int:
        """Delete one or all conversations and return their number."""
        return await self._ask(asks.conversations_remove(id, all), timeout)
