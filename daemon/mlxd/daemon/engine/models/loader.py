"""Loads models in slices, with adapters on a shared base, and holds what is known of each."""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_adapters, load_model

from mlxd.daemon.engine.backend.shortages import shortage
from mlxd.daemon.engine.decoding.batch import DecodeBatch
from mlxd.daemon.engine.kvcache.prefix_cache import can_trim_always
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.models.files import fingerprint
from mlxd.daemon.engine.models.findings import Findings
from mlxd.daemon.engine.models.probe import Original, Prober, kv_size
from mlxd.daemon.engine.scheduling.pacing import PrefillPacer
from mlxd.daemon.engine.scheduling.scheduler import RequestQueue
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.daemon.models import files
from mlxd.protocol.errors import MlxdError, ModelLoadFailed, OutOfMemory

LOAD_SLICE_BYTES = 256 * 2**20
"""Weights that are read between two decoding steps of other models: tens of milliseconds."""
LOAD_SLICE_LEAST_BYTES = 4 * 2**20
LOAD_SLICE_S = 1.0
"""A slice that took longer is followed by a smaller one, so that other models decode meanwhile and
the front sees progress, also with a slow disk."""


DONE = object()
BUILTIN_DIR = Path(files.__file__).with_name("pocket")


@dataclass(slots=True)
class LoadedModel:
    """A loaded model and the batches that decode with it."""

    ref: ModelRef
    model: Any
    tokenizer: Tokenizer
    bytes: int
    fingerprint: str
    keep_alive_s: float
    pinned: bool = False
    pin_requested: bool | None = None
    """What the last `load` with `pin` requested; it takes precedence over the configuration."""
    shared: bool = False
    """Loaded only for the weights that adapters share."""
    load_s: float = 0.0
    last_used_s: float = field(default_factory=time.monotonic)
    pacer: PrefillPacer = field(default_factory=PrefillPacer)
    batches: dict[RequestQueue, list[DecodeBatch]] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    trimmable: bool = True
    widest: int = 0
    """Weights of the largest matrix."""

    @property
    def mergeable(self) -> bool:
        """Whether its sequences may share a batch."""
        return not self.findings.alone

    @property
    def notes(self) -> list[str]:
        """How it is served differently from other models, for `ps` and `models.show`."""
        found = self.findings
        texts = (
            ("served alone", found.alone),
            ("prompts are not cached", found.unkept),
            ("cached prompts are not written to disk", "" if found.unkept else found.unstored),
            ("computed with MLX's own operations", found.original),
        )
        return [f"{what}: {reason}" for what, reason in texts if reason]

    def kv_bytes(self, tokens: int) -> int:
        """Return the size of the KV cache of a sequence of so many tokens."""
        return self.findings.kv.of(tokens)

    def batch_for(self, queue: RequestQueue) -> DecodeBatch:
        """Return the batch that new sequences of `queue` join."""
        batches = self.batches.setdefault(queue, [])
        shared = [batch for batch in batches if not batch.alone]
        if not self.mergeable or not shared:
            batches.append(DecodeBatch(self.model))
            return batches[-1]
        return shared[-1]

    def batch_of(self, uid: int) -> DecodeBatch | None:
        """Return the batch with the sequence `uid`, or None."""
        for batches in self.batches.values():
            for batch in batches:
                if batch.holds(uid):
                    return batch
        return None

    def tidy(self) -> None:
        """Remove empty batches."""
        for queue in list(self.batches):
            self.batches[queue] = [batch for batch in self.batches[queue] if len(batch)]
            if not self.batches[queue]:
                del self.batches[queue]


class Loader:
    """Loads one model in slices, so that other models continue to decode meanwhile."""

    def __init__(
        self, ref: ModelRef, prober: Prober, base: Any = None, warm_up_tokens: int = 1
    ) -> None:
        """`base` is the loaded model without `ref`'s adapter, to share its weights with."""
        self.ref = ref
        self.done_bytes = 0
        """Bytes of weights that are read."""
        self.total_bytes = 0
        self._warm_up_tokens = warm_up_tokens
        self._prober = prober
        self._findings = Findings()
        self.model: Any = None
        self._base = base
        self._work: Generator[None, None, None] | None = None

    def advance(self) -> bool:
        """Do one slice of work; returns whether the model is complete.

        Raises:
            ModelLoadFailed, OutOfMemory: the model cannot be loaded.
        """
        with model_edge(self.ref):
            if self._work is None:
                self.model = self._open()
                self._work = self._read()
            return next(self._work, DONE) is DONE

    def close(self) -> None:
        """Stop reading. A suspended generator would keep the model in memory."""
        if self._work is not None:
            self._work.close()

    def loaded_model(self, tokenizer: Tokenizer, keep_alive_s: float) -> LoadedModel:
        """Return the loaded model with its tokenizer."""
        cache = make_prompt_cache(self.model)
        model = self.model
        if self._findings.original:
            model = OriginalOperations(model, self._prober.original)
        return LoadedModel(
            ref=self.ref,
            model=model,
            tokenizer=tokenizer,
            bytes=self.own_bytes(),
            fingerprint=fingerprint(Path(self.ref.path), self.ref.adapter),
            keep_alive_s=keep_alive_s,
            findings=self._findings,
            trimmable=can_trim_always(cache),
            widest=largest_matrix(self.model),
        )

    def own_bytes(self) -> int:
        """Return the bytes of weights that this model does not share with its base."""
        shared = 0 if self._base is None else _nbytes(self._base)
        return max(0, _nbytes(self.model) - shared)

    def _open(self) -> Any:
        model, _config = load_model(
            Path(self.ref.path), lazy=True, trust_remote_code=self.ref.trust_remote_code
        )
        if self._base is not None:
            # The same arrays, not copies: an adapter takes only its own few megabytes.
            model.update(self._base.parameters())
        if self.ref.adapter:
            model = load_adapters(model, self.ref.adapter)
            model.eval()
        return model

    def _read(self) -> Generator[None, None, None]:
        pending: list[mx.array] = []
        size, most = 0, LOAD_SLICE_BYTES // 8
        self.total_bytes = _nbytes(self.model)
        for _, array in tree_flatten(self.model.parameters()):
            pending.append(array)
            size += array.nbytes
            if size >= most:
                started_s = time.monotonic()
                mx.eval(pending)
                self.done_bytes += size
                most = next_slice_bytes(size, time.monotonic() - started_s)
                pending, size = [], 0
                yield
        mx.eval(pending)
        self.done_bytes = self.total_bytes
        yield
        # Some values in `config.json` only fail when they are used.
        cache = make_prompt_cache(self.model)
        mx.eval(self.model(mx.array([[0]]), cache=cache))
        yield
        self._warm_up()
        if Path(self.ref.path) == BUILTIN_DIR:
            # Measured by mlxd's own tests. Its first answer should not wait.
            self._findings = Findings(kv=kv_size(cache))
        else:
            folder, adapter = Path(self.ref.path), self.ref.adapter is not None
            self._findings = yield from self._prober.measure(self.model, folder, adapter=adapter)

    def _warm_up(self) -> None:
        """Run a prefill pass and a decoding step on a GPU, which builds kernels for both.

        Otherwise the first caller would wait for that, and the pacer would take it for the model's
        speed.
        """
        if self._warm_up_tokens > 1:
            cache = make_prompt_cache(self.model)
            mx.eval(self.model(mx.zeros((1, self._warm_up_tokens), mx.int32), cache=cache))
            mx.eval(self.model(mx.array([[0]]), cache=cache))


class OriginalOperations:
    """A model that is computed with MLX's own operations instead of the engine's."""

    def __init__(self, model: Any, original: Original) -> None:
        self._model = model
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._original() or nullcontext():
            return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def largest_matrix(model: Any) -> int:
    """Return the number of weights of the model's largest matrix."""
    sizes = (array.size for _, array in tree_flatten(model.parameters()) if array.ndim > 1)
    return max(sizes, default=0)


def next_slice_bytes(size: int, seconds: float) -> int:
    """Return the size of the next slice after one of `size` bytes took `seconds`; at most twice."""
    most = min(2 * size, int(size * LOAD_SLICE_S / max(seconds, 1e-6)))
    return max(LOAD_SLICE_LEAST_BYTES, min(LOAD_SLICE_BYTES, most))


def _nbytes(model: Any) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


@contextmanager
def model_edge(ref: ModelRef) -> Iterator[None]:
    """Translate the exceptions that mlx-lm and MLX raise for a model's files.

    Includes SystemExit: modules of mlx-lm call `sys.exit` if a package is missing. The text that
    they print becomes part of the message.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    except MlxdError as error:
        raise (shortage(error) or error) from error.__cause__
    except BaseException as exc:
        raise load_failed(ref, exc, printed.getvalue()) from exc


def load_failed(ref: ModelRef, exc: BaseException, printed: str = "") -> MlxdError:
    """Return the error for an exception of mlx-lm."""
    text = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
    if shortage(exc) is not None:
        return OutOfMemory(f"{ref.name} cannot be loaded: {text}")
    if isinstance(exc, SystemExit):
        message = printed.strip() or f"sys.exit({exc.code!r}) was called"
        return ModelLoadFailed(
            f"{ref.name} cannot be loaded: its module ended with: {message[:300]}",
            hint="Install what it needs beside mlxd, then restart: mlxd restart",
        )
    if isinstance(exc, RecursionError):
        text = "its files are nested too deep"
    hint = ""
    lowered = str(exc).lower()
    if "trust_remote_code" in lowered or "model_file" in lowered:
        hint = (
            f'It needs its own code: set trust_remote_code = true under [models."{ref.name}"] '
            "in config.toml, if you trust it."
        )
    elif "not supported" in lowered:
        hint = "Its architecture is unknown to the installed mlx-lm: pip install -U mlx-lm"
    elif "parameters not in model" in lowered or "missing" in lowered or "shape" in lowered:
        hint = "The weights do not fit config.json: pull the model again, or convert it for MLX."
    return ModelLoadFailed(
        f"{ref.name} cannot be loaded: {text} ({ref.path})",
        hint=hint or f"Check what the folder holds: mlx models show {ref.name}",
    )
