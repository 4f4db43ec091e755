"""An active request: its parameters, its choices as they grow, and its result. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mlxd.daemon.engine.cancellation import Cancellation
from mlxd.daemon.engine.generation import GenerationParams, GenerationRequest
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.tokenization.text import Channel, Markers, Piece, TextSplitter

if TYPE_CHECKING:
    from mlxd.daemon.engine.constraints.compiler import Constraint, Guide

ToolParser = Callable[[str, Any], Any]
Event = tuple[str, dict[str, Any]]
"""Type and payload, as sent to the front."""


class Detokenizer(Protocol):
    """The part of `mlx_lm.tokenizer_utils.StreamingDetokenizer` that the engine uses."""

    last_segment: str

    def add_token(self, token: int) -> None: ...

    def finalize(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tokenized prompt, ready for the compute thread.

    `cuts` are token counts at which a snapshot is useful (after the system prompt, after turns).
    """

    tokens: list[int]
    reasoning: bool = False
    cuts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    constraint: Constraint | None = None
    extra_eos: frozenset[int] = frozenset()


@dataclass(slots=True)
class Choice:
    """One answer of a request as it grows."""

    index: int
    splitter: TextSplitter
    detokenizer: Detokenizer
    tool_parser: ToolParser | None = None
    tools: Any = None
    guide: Guide | None = None
    tokens: list[int] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_text: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    logprobs_sent: int = 0
    reasoning_tokens: int = 0
    finish_reason: str | None = None

    def new_logprobs(self) -> list[dict[str, Any]]:
        """Return the log-probabilities that no event has included yet."""
        entries = self.logprobs[self.logprobs_sent :]
        self.logprobs_sent = len(self.logprobs)
        return entries

    def accept(self, token: int, *, ends: bool) -> list[Event]:
        """Add a text token, or the end token. Return the text that can be sent now."""
        self.tokens.append(token)
        if self.splitter.channel is Channel.REASONING:
            self.reasoning_tokens += 1
        if ends:
            return []
        self.detokenizer.add_token(token)
        text = self.detokenizer.last_segment
        return self._events(self.splitter.feed(text)) if text else []

    def finish(self, reason: str) -> list[Event]:
        """End the answer. Return the text that was held back."""
        self.detokenizer.finalize()
        pieces = self.splitter.feed(self.detokenizer.last_segment)
        pieces += self.splitter.flush(cut=reason == "length")
        events = self._events(pieces)
        if self.tool_text:
            if reason == "length":
                self.notes.append("the answer was truncated at max_tokens inside a tool call")
                events += self._say("".join(self.tool_text))
            else:
                events += self._close_tool_call()
        if self.guide is not None:
            reason = self._constrained_end(self.guide, reason)
        self.finish_reason = "tool_calls" if self.tool_calls and reason == "stop" else reason
        return events

    def _constrained_end(self, guide: Guide, reason: str) -> str:
        """Note that the constraint's text is incomplete. An incomplete text counts as truncated."""
        if not (verdict := guide.verdict()):
            return reason
        if guide.failed:
            self.notes.append(f"cut: {verdict}")
            return "length"
        what = "truncated at max_tokens" if reason == "length" else "ended by a stop text or token"
        self.notes.append(f"{what}: {verdict}")
        return reason

    def to_map(self) -> dict[str, Any]:
        """Return the choice in the format of the result."""
        out: dict[str, Any] = {
            "index": self.index,
            "text": "".join(self.answer),
            "reasoning": "".join(self.reasoning).rstrip("\n"),
            "tool_calls": self.tool_calls,
            "finish_reason": self.finish_reason,
        }
        if self.logprobs:
            out["logprobs"] = self.logprobs
        return out

    def _events(self, pieces: list[Piece]) -> list[Event]:
        events: list[Event] = []
        for piece in pieces:
            if piece.channel is Channel.TOOL:
                self.tool_text.append(piece.text)
                if piece.closed:
                    events += self._close_tool_call()
                continue
            kept = self.reasoning if piece.channel is Channel.REASONING else self.answer
            kept.append(piece.text)
            events.append(self._delta(piece.text, piece.channel))
        return events

    def _delta(self, text: str, channel: Channel) -> Event:
        return "delta", {"index": self.index, "text": text, "channel": channel.value}

    def _say(self, text: str) -> list[Event]:
        self.tool_text.clear()
        self.answer.append(text)
        return [self._delta(text, Channel.ANSWER)] if text else []

    def _close_tool_call(self) -> list[Event]:
        text = "".join(self.tool_text)
        self.tool_text.clear()
        try:
            assert self.tool_parser is not None
            parsed = self.tool_parser(text.strip(), self.tools)
            calls = parsed if isinstance(parsed, list) else [parsed]
            return [self._tool_call(call) for call in calls]
        except Exception:  # parsers of mlx-lm raise any error on text that they cannot parse
            self.notes.append("a tool call could not be parsed; it is part of the text")
            return self._say(text)

    def _tool_call(self, call: dict[str, Any]) -> Event:
        arguments = call["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        entry = {
            "id": str(call.get("id") or f"call_{self.index}_{len(self.tool_calls)}"),
            "name": str(call["name"]),
            "arguments": arguments,
        }
        self.tool_calls.append(entry)
        return "tool_call", {"index": self.index, **entry}


@dataclass(slots=True)
class Timing:
    """Times of the monotonic clock in seconds. Zero: not reached yet."""

    received: float = field(default_factory=time.monotonic)
    load_s: float = 0.0
    prefill_started: float = 0.0
    decode_started: float = 0.0
    first_token: float = 0.0

    def to_map(self, now: float, tokens: int) -> dict[str, float]:
        """Return the seconds of each phase. Their sum is the time from receipt to now."""
        started = self.prefill_started or now
        decoding = self.decode_started or now
        decode_s = max(0.0, now - decoding)
        return {
            "queue_s": round(max(0.0, started - self.received - self.load_s), 6),
            "load_s": round(self.load_s, 6),
            "prefill_s": round(max(0.0, decoding - started), 6),
            "decode_s": round(decode_s, 6),
            "time_to_first_token_s": round(max(0.0, (self.first_token or now) - self.received), 6),
            "tokens_per_s": round(tokens / decode_s, 3) if decode_s > 0 else 0.0,
        }


@dataclass(slots=True)
class ActiveRequest:
    """A request from its arrival to its end. Only the compute thread uses it."""

    spec: GenerationRequest
    """The request as received from the front."""
    ref: ModelRef = field(init=False)
    """The model of `spec`, without a draft model that cannot be loaded."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    """Set when the request ends, for the threads that prepare its prompt."""
    timing: Timing = field(default_factory=Timing)
    prepared: Prepared | None = None
    choices: list[Choice] = field(default_factory=list)
    max_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    batched: bool = False
    """Whether it shared a pass with another sequence."""
    begun: bool = False
    """Whether the front was told that its prompt is being computed."""
    draft: Any = None
    """The `speculative.Draft` of its sequence, if it has a draft model."""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ref = self.spec.ref

    @property
    def request_id(self) -> int:
        return self.spec.request_id

    @property
    def method(self) -> str:
        return self.spec.method

    @property
    def params(self) -> GenerationParams:
        return self.spec.params

    @property
    def rank(self) -> int:
        return self.spec.rank

    def usage(self) -> dict[str, int]:
        """Return the number of tokens of all choices."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": sum(len(choice.tokens) for choice in self.choices),
            "reasoning_tokens": sum(choice.reasoning_tokens for choice in self.choices),
        }

    def result(self) -> dict[str, Any]:
        """Return the completion result of the protocol."""
        usage = self.usage()
        notes = [*self.notes, *(note for choice in self.choices for note in choice.notes)]
        return {
            "choices": [choice.to_map() for choice in self.choices],
            "usage": usage,
            "timing": self.timing.to_map(time.monotonic(), usage["completion_tokens"]),
            "applied": {
                "model": self.ref.name,
                "revision": self.ref.revision,
                "seed": self.spec.seed,
                "batched": self.batched,
                "constrained": self.prepared is not None and self.prepared.constraint is not None,
                "truncated_tokens": 0,
                **({"draft": self.draft.to_map()} if self.draft is not None else {}),
                "notes": list(dict.fromkeys(notes)),
            },
        }


def markers_of(tokenizer: Any) -> Markers:
    """Return the marker texts of an mlx-lm tokenizer wrapper."""
    thinks = bool(tokenizer.has_thinking)
    calls = bool(tokenizer.has_tool_calling)
    return Markers(
        think_start=tokenizer.think_start if thinks else "",
        think_end=tokenizer.think_end if thinks else "",
        tool_start=(tokenizer.tool_call_start or "") if calls else "",
        tool_end=(tokenizer.tool_call_end or "") if calls else "",
    )
