"""How a request wants its answers generated, parsed once from the wire. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxd.daemon.engine.constraints.tool_choice import forced_tools


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """Named as in the protocol. The defaults switch everything off."""

    n: int = 1
    max_tokens: int = 0
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
    logprobs: int = -1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    thinking: bool = False
    tools: Any = None
    """As the caller gave them: the model's tool parser reads them."""
    tool_choice: str = "auto"
    forced_tool: bool = False
    """Whether the answer must be a call of a tool."""

    @classmethod
    def from_map(cls, raw: dict[str, Any]) -> GenerationParams:
        """Return the parameters of a request that the front has validated."""
        names = cls.__dataclass_fields__.keys() & raw.keys()
        given = {name: raw[name] for name in names if raw[name] is not None}
        given["stop"] = tuple(given.get("stop", ()))
        return cls(**given, forced_tool=bool(forced_tools(raw)))
