"""A request from the front, parsed once from the wire into frozen values. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxd.daemon.engine.constraints.tool_choice import ToolUse
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import Prompt, parse_prompt
from mlxd.daemon.engine.scheduling.scheduler import RANKS

CONSTRAINT_KINDS = ("schema", "regex", "grammar")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The sampling of tokens, named as in the protocol. By default every option is off."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    min_tokens_to_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float = 1.0
    repetition_context_size: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> SamplingParams:
        return cls(**_given(raw, cls.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class ConstraintSource:
    """The constraint of an answer: a JSON Schema, a regular expression or a Lark grammar."""

    kind: str
    source: Any

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> ConstraintSource | None:
        kinds = (kind for kind in CONSTRAINT_KINDS if raw.get(kind) is not None)
        return next((cls(kind, raw[kind]) for kind in kinds), None)


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """The generation of answers, named as in the protocol."""

    n: int = 1
    max_tokens: int = 0
    logprobs: int = -1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    thinking: bool = False
    sampling: SamplingParams = field(default_factory=SamplingParams)
    tools: ToolUse = field(default_factory=ToolUse)
    constraint: ConstraintSource | None = None

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> GenerationParams:
        """Return the parameters of a request that the front has validated."""
        names = ("n", "max_tokens", "logprobs", "ignore_eos", "thinking")
        return cls(
            **_given(raw, names),
            stop=tuple(raw.get("stop") or ()),
            sampling=SamplingParams.from_map(raw),
            tools=ToolUse.from_map(raw),
            constraint=ConstraintSource.from_map(raw),
        )


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A completion request: prompt, model and parameters. Safe to pass to other threads."""

    request_id: int
    method: str
    ref: ModelRef
    prompt: Prompt
    params: GenerationParams = field(default_factory=GenerationParams)
    conn: int = 0
    rank: int = 0
    seed: int = 0
    keep_alive_s: float | None = None

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> GenerationRequest:
        """Parse the parameters of `submit`. Raises InvalidParams."""
        params = raw["params"]
        seed = params.get("seed")
        return cls(
            request_id=raw["rid"],
            method=raw["method"],
            ref=ModelRef.from_map(raw["model"]),
            prompt=parse_prompt(params),
            params=GenerationParams.from_map(params),
            conn=raw.get("conn", 0),
            rank=RANKS[raw.get("priority") or "interactive"],
            seed=secrets.randbits(53) if seed is None else seed,
            keep_alive_s=params.get("keep_alive_s"),
        )


def _given(raw: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: raw[name] for name in names if raw.get(name) is not None}
