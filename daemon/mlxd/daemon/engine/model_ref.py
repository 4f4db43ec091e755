"""The model of a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model of a request, as resolved by the front."""

    name: str
    path: str
    revision: str | None = None
    trust_remote_code: bool = False
    keep_alive_s: float | None = None
    pin: bool = False
    adapter: str | None = None
    draft: str | None = None
    draft_name: str | None = None

    @property
    def key(self) -> str:
        """Identifies a loaded model. The same weights with another adapter are another model."""
        return f"{self.path}\n{self.adapter}" if self.adapter else self.path

    @property
    def base_ref(self) -> ModelRef | None:
        """The model without its adapter, which shares the weights. None: it has no adapter."""
        if self.adapter is None:
            return None
        return replace(
            self, adapter=None, draft=None, draft_name=None, keep_alive_s=None, pin=False
        )

    @property
    def draft_ref(self) -> ModelRef | None:
        """The smaller model that proposes tokens, or None."""
        if self.draft is None:
            return None
        return ModelRef(self.draft_name or self.draft, self.draft)

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of all models that a request for this model uses."""
        others = (self.base_ref, self.draft_ref)
        return (self.key, *(other.key for other in others if other is not None))

    @classmethod
    def from_map(cls, raw: Mapping[str, Any]) -> ModelRef:
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__ if name in raw})
