"""The results of methods, as frozen dataclasses that are also maps.

`result.choices[0].text` and `result["choices"][0]["text"]` are the same. Keys that this version
does not know are available as map keys. `to_dict` returns the original map, for example for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from mlxd.protocol.errors import ParseError


@dataclass(frozen=True, slots=True, eq=False)
class Record(Mapping[str, Any]):
    """A map from the daemon, with typed attributes for known keys. Equals the original map."""

    _raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Return a record for a raw map. Missing keys get the defaults of their attributes.

        Raises:
            ParseError: `raw` is not a map.
        """
        if not isinstance(raw, dict):
            raise ParseError(f"The daemon sent {type(raw).__name__} instead of a map.")
        known = {
            one.name: one.metadata.get("of", _as_it_is)(raw[one.name])
            for one in fields(cls)
            if raw.get(one.name) is not None and one.name != "_raw"
        }
        return cls(raw, **known)

    def to_dict(self) -> dict[str, Any]:
        """Return the original map."""
        return self._raw

    def __getitem__(self, key: str) -> Any:
        return self._raw[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _as_it_is(value: Any) -> Any:
    return value


def _one(kind: type[Record]) -> Any:
    """Return a field for a record. By default it is empty."""
    return field(default_factory=lambda: kind.of({}), metadata={"of": kind.of})


def _many(of: Callable[[Any], Any]) -> Any:
    """Return a field for a tuple. By default it is empty."""
    return field(default=(), metadata={"of": lambda raw: tuple(of(one) for one in raw)})


# ---- completions


@dataclass(frozen=True, slots=True, eq=False)
class ToolCall(Record):
    """A function call by the model."""

    id: str = ""
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Choice(Record):
    """One answer. `finish_reason` is `stop`, `length` or `tool_calls`."""

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = _many(ToolCall.of)
    finish_reason: str = ""
    logprobs: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Usage(Record):
    """Token counts of a request."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Timing(Record):
    """Durations of the phases of a request in seconds, and the decoding speed."""

    queue_s: float = 0.0
    load_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    time_to_first_token_s: float = 0.0
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Applied(Record):
    """How the daemon executed the request. `notes` lists options that it could not fully apply."""

    model: str = ""
    revision: str | None = None
    seed: int | None = None
    batched: bool = False
    constrained: bool = False
    truncated_tokens: int = 0
    version: str = ""
    notes: tuple[str, ...] = _many(str)


@dataclass(frozen=True, slots=True, eq=False)
class Completion(Record):
    """The result of `chat`, `generate` and `fill`."""

    choices: tuple[Choice, ...] = _many(Choice.of)
    usage: Usage = _one(Usage)
    timing: Timing = _one(Timing)
    applied: Applied = _one(Applied)
    conversation: str | None = None

    @property
    def text(self) -> str:
        """The text of the first answer."""
        return self.choices[0].text if self.choices else ""


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled(Record):
    """The result of `prefill`."""

    usage: Usage = _one(Usage)
    timing: Timing = _one(Timing)
    applied: Applied = _one(Applied)


# ---- models


@dataclass(frozen=True, slots=True, eq=False)
class Loaded(Record):
    """The result of `load`. A `keep_alive_s` below 0 means until the model is unloaded."""

    model: str = ""
    bytes: int = 0
    load_s: float = 0.0
    was_loaded: bool = False
    pinned: bool = False
    keep_alive_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Unloaded(Record):
    """The result of `unload`. The daemon finishes pending requests first."""

    unloaded: bool = False
    pending_requests: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel(Record):
    """A loaded model. A `keep_alive_s` below 0: until unloaded. `notes`: why it is served alone."""

    model: str = ""
    revision: str | None = None
    adapter: str | None = None
    path: str = ""
    bytes: int = 0
    load_s: float = 0.0
    idle_s: float = 0.0
    keep_alive_s: float = 0.0
    pinned: bool = False
    requests: int = 0
    batches: bool = False
    notes: tuple[str, ...] = _many(str)
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Model(Record):
    """A model on this machine. `problem` states why it cannot be used."""

    name: str = ""
    path: str = ""
    source: str = ""
    bytes: int | None = None
    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    context_tokens: int | None = None
    architecture: str | None = None
    parameters: int | None = None
    chat_template: bool = False
    revision: str | None = None
    problem: str | None = None
    fits_in_memory: bool | None = None
    notes: tuple[str, ...] = _many(str)


@dataclass(frozen=True, slots=True, eq=False)
class ModelList(Record):
    """The result of `models.list`. `aliases` maps an alias to its model."""

    models: tuple[Model, ...] = _many(Model.of)
    default: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModel(Record):
    """A model of another tool. `problem` says why it was skipped."""

    name: str = ""
    path: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Import(Record):
    """The result of `models.import`: models linked now, known before, and skipped."""

    imported: tuple[ImportedModel, ...] = _many(ImportedModel.of)
    known: tuple[ImportedModel, ...] = _many(ImportedModel.of)
    skipped: tuple[ImportedModel, ...] = _many(ImportedModel.of)


@dataclass(frozen=True, slots=True, eq=False)
class HubModel(Record):
    """A model on the hub. `bytes` counts its weights."""

    name: str = ""
    bytes: int = 0
    downloads: int = 0
    gated: bool = False
    fits_in_memory: bool = False
    on_this_machine: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class HubModels(Record):
    """The result of `models.search`."""

    models: tuple[HubModel, ...] = _many(HubModel.of)
    memory_budget_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Removed(Record):
    """The result of `models.remove`."""

    removed: Any = None
    bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DefaultModel(Record):
    """The result of `models.default`. The two differ if `MLXD_DEFAULT_MODEL` is set."""

    default: str | None = None
    in_effect: str | None = None


# ---- conversations and the daemon


@dataclass(frozen=True, slots=True, eq=False)
class Turn(Record):
    """One exchange of a stored conversation. `created` is in seconds since 1970."""

    number: int = 0
    state: str = ""
    error: dict[str, Any] | None = None
    model: str | None = None
    created: float = 0.0
    messages: tuple[dict[str, Any], ...] = _many(_as_it_is)
    answer: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = _many(ToolCall.of)
    usage: Usage = _one(Usage)


@dataclass(frozen=True, slots=True, eq=False)
class Conversation(Record):
    """A stored conversation. `turns` is a number, or the turns from `conversations.show`."""

    id: str = ""
    kind: str = ""
    scope: str = ""
    title: str = ""
    system: str | None = None
    model: str | None = None
    created: float = 0.0
    updated: float = 0.0
    turns: int | tuple[Turn, ...] = field(
        default=0,
        metadata={
            "of": lambda raw: raw if isinstance(raw, int) else tuple(Turn.of(one) for one in raw)
        },
    )


@dataclass(frozen=True, slots=True, eq=False)
class Requests(Record):
    """Numbers of requests in the daemon."""

    running: int = 0
    queued: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Status(Record):
    """The state of the daemon."""

    version: str = ""
    protocol: int = 0
    pid: int = 0
    uptime_s: float = 0.0
    state: str = ""
    socket: str = ""
    default_model: str | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    models: tuple[LoadedModel, ...] = _many(LoadedModel.of)
    requests: Requests = _one(Requests)
    connections: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Hello(Record):
    """The result of `hello`."""

    server: str = ""
    version: str = ""
    protocol: int = 0
    capabilities: tuple[str, ...] = _many(str)
    limits: dict[str, int] = field(default_factory=dict)
