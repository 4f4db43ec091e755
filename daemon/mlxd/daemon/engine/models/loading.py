"""A model that is being loaded, and the memory that it will need."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.files import estimate_adapter_bytes, estimate_resident_bytes
from mlxd.daemon.engine.models.loader import Loader
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer


@dataclass(slots=True)
class Loading:
    """A model that is being loaded. `weights` is set once there is room and reading has begun.

    `beside` are the models that it depends on. They stay loaded meanwhile.
    """

    ref: ModelRef
    keep_alive_s: float | None = None
    pin: bool | None = None
    """None: keep the pin as it is, or as configured."""
    beside: tuple[str, ...] = ()
    shared: bool = False
    """Loaded only for dependents, which share its weights. It is unloaded with them."""
    need_bytes: int = 0
    requested_s: float = field(default_factory=time.monotonic)
    weights: Loader | None = None
    weights_done: bool = False
    tokenizer: Tokenizer | None = None


def needed_bytes(ref: ModelRef, *, shares_base: bool) -> int:
    """Return the bytes that a model will take in addition to a loaded base that it shares."""
    if ref.adapter is None:
        return estimate_resident_bytes(Path(ref.path))
    own = estimate_adapter_bytes(Path(ref.adapter))
    return own if shares_base else own + estimate_resident_bytes(Path(ref.path))


def release_frames(error: BaseException) -> None:
    """Drop the tracebacks of an error: their frames hold the model whose load failed."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__
