"""Measures a model when it is loaded: may it be batched, are its prompts kept, its KV cache's size.

An architecture of mlx-lm may have caches that can be merged and still fail, or compute something
else, with several sequences. So two short prompts of different length are computed alone and
together, and the logits are compared. The same holds for everything else that the engine does with
caches: cut them, take a sequence out of a batch, store and restore them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, make_prompt_cache

from mlxd.daemon.engine.backend.shortages import not_device_failure, shortage
from mlxd.daemon.engine.kvcache.ops import Cache, is_plain, merge, rows_of, share_offsets
from mlxd.daemon.engine.kvcache.prefix_cache import can_trim_now, copied, rebuilt, taken_apart
from mlxd.daemon.engine.models.files import read_config, vocabulary_size
from mlxd.daemon.engine.models.findings import Findings, FindingsStore, KvSize
from mlxd.daemon.engine.prefill.chunks import Prefill, joined, run_together

SHORT_TOKENS, LONG_TOKENS = 5, 11
"""Lengths of the two prompts. They differ, so that one of them is padded in a batch."""
WINDOW_MAX_TOKENS, BEYOND_WINDOW_TOKENS = 300, 9
"""The longer prompt exceeds the smallest sliding window, unless that is larger than this."""
NOT_BATCHED = {
    "minimax_m3_vl": "from some thousand tokens on its sparse attention selects other blocks",
}
"""Architectures that give other results in a batch only with prompts longer than the probe's."""
STEPS = 3
CUT_TOKENS = 3
TOKENS_MAX = 1000
"""Prompts are made of ids below this; every vocabulary that is not stated has as many."""
FLOAT32_TOLERANCE, HALF_TOLERANCE = 1e-2, 0.2
"""Largest difference between logits, relative to their standard deviation, that rounding explains.

Measured over all architectures of mlx-lm 0.32 on the CPU: at most 4e-6 in float32 and 0 in
bfloat16 where batches are right, and at least 0.12 where they are not. A GPU chooses its kernels by
shape, which half precision shows.
"""

Logits = np.ndarray[Any, np.dtype[np.float32]]
Check = Callable[[], str]
"""Returns what is wrong, or an empty text."""
Original = Callable[[], AbstractContextManager[None] | None]
"""Switches to the operations of mlx-lm and MLX itself during a `with` block; None: no others are
used."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A sequence computed by itself: logits after the prompt and after each further token."""

    tokens: list[int]
    prompt_tokens: int
    logits: list[Logits]
    cache: Cache
    """Covers the prompt. It must not be written to."""

    @property
    def prompt(self) -> list[int]:
        return self.tokens[: self.prompt_tokens]


class Prober:
    """Measures models when they are loaded, unless that was done before."""

    def __init__(self, store: FindingsStore, original: Original = lambda: None) -> None:
        self._store = store
        self.original = original

    def measure(
        self, model: Any, folder: Path, *, adapter: bool
    ) -> Generator[None, None, Findings]:
        """Return how a model may be served; yields between two parts."""
        config = read_config(folder)
        types = sorted({str(array.dtype) for _, array in tree_flatten(model.parameters())})
        key = self._store.key(config, types, adapter)
        if (known := self._store.read(key)) is not None:
            return known
        probe = Probe(model, vocabulary_size(folder, config), self.original)
        findings = yield from probe.run()
        if not findings.alone and (reason := NOT_BATCHED.get(str(config.get("model_type")))):
            findings = replace(findings, alone=reason)
        self._store.write(key, findings)
        return findings


class Probe:
    """Measures one model."""

    def __init__(
        self, model: Any, vocabulary: int | None = None, original: Original = lambda: None
    ) -> None:
        self._model = model
        self._original = original
        self._long_tokens = _long_tokens(model)
        sizes = (SHORT_TOKENS + STEPS, self._long_tokens + STEPS)
        most = min(vocabulary or TOKENS_MAX, TOKENS_MAX)
        ids = np.random.default_rng(7).integers(min(3, most - 1), most, sum(sizes)).tolist()
        self._short, self._long = ids[: sizes[0]], ids[sizes[0] :]
        self._tolerance = _tolerance(model)

    def run(self) -> Generator[None, None, Findings]:
        """Measure; yields between two parts, so that other models can decode meanwhile.

        Raises whatever the model raises for a single sequence: then it cannot be used at all.
        """
        original = ""
        if self._original() is not None:
            original = self._guarded(self._check_replaced)
            yield
        served = self._original if original else lambda: None
        with served() or nullcontext():
            short = self._alone(self._short, SHORT_TOKENS)
            longer = self._alone(self._long, self._long_tokens)
            kv = kv_size(longer.cache)
        yield
        found = []
        for check in (self._check_batch, self._check_cut, self._check_restored):
            with served() or nullcontext():
                found.append(self._guarded(partial(check, short, longer)))
            yield
        alone, unkept, unstored = found
        return Findings(alone, unkept, unkept or unstored, original, kv)

    # ---- what is compared

    def _check_replaced(self) -> str:
        """Compare the engine's own operations with those that they replace."""
        with self._original() or nullcontext():
            expected = self._alone(self._long, self._long_tokens)
        found = self._alone(self._long, self._long_tokens)
        return self._difference(expected.logits, found.logits, "with the engine's own operations")

    def _check_batch(self, short: Alone, longer: Alone) -> str:
        """Compare two sequences in one batch, each alone again at the end, with each by itself."""
        prompts = [short, longer]
        for together in (False, True) if is_plain(short.cache) else (False,):
            cache, steps = self._batched(prompts, together=together), []
            for step in range(STEPS):
                tokens = [one.tokens[one.prompt_tokens - 1 + step] for one in prompts]
                steps.append(self._step(cache, tokens))
            for row, one in enumerate(prompts):
                found = [logits[row] for logits in steps]
                if wrong := self._difference(one.logits[:STEPS], found, "in a batch"):
                    return wrong
        for row, one in enumerate(prompts):
            part = rows_of(cache, [row])[0]
            last = self._step(part, one.tokens[-1:])
            if wrong := self._difference(one.logits[-1:], [last[0]], "taken out of a batch"):
                return wrong
        return ""

    def _check_cut(self, _short: Alone, longer: Alone) -> str:
        """Compare a copy of a prompt's cache, cut where it can be, with the prompt computed."""
        return self._continued(
            longer, lambda cache, keep: copied(cache, longer.prompt_tokens - 1, keep)
        )

    def _check_restored(self, _short: Alone, longer: Alone) -> str:
        """Compare a cache that was stored and restored with the prompt computed."""
        tokens = np.array(longer.prompt[:-1], dtype=np.uint32)

        def restored(cache: Cache, keep: int) -> Cache:
            mx.eval([layer.state for layer in cache])
            back = rebuilt(taken_apart("", tokens, cache, can_trim_now(cache)))
            return copied(back, longer.prompt_tokens - 1, keep)

        return self._continued(longer, restored)

    def _continued(self, alone: Alone, change: Callable[[Cache, int], Cache]) -> str:
        cuts = (0, CUT_TOKENS) if can_trim_now(alone.cache) else (0,)
        for cut in cuts:
            keep = len(alone.prompt) - 1 - cut
            cache = change(alone.cache, keep)
            found = self._feed(cache, alone.prompt[keep:])
            logits = [found, self._feed(cache, alone.tokens[len(alone.prompt) :][:1])]
            if wrong := self._difference(alone.logits[:2], logits, f"with {cut} tokens cut off"):
                return wrong
        return ""

    # ---- passes

    def _alone(self, tokens: list[int], prompt_tokens: int) -> Alone:
        cache = make_prompt_cache(self._model)
        self._feed(cache, tokens[: prompt_tokens - 1])
        kept = copied(cache, prompt_tokens - 1, prompt_tokens - 1)
        steps = [tokens[prompt_tokens - 1 + step] for step in range(STEPS + 1)]
        logits = [self._feed(cache, [token]) for token in steps]
        return Alone(tokens, prompt_tokens, logits, kept)

    def _batched(self, prompts: Sequence[Alone], *, together: bool) -> Cache:
        if not together:
            return merge([copied(one.cache, n := one.prompt_tokens - 1, n) for one in prompts])
        parts = [Prefill(self._model, one.prompt) for one in prompts]
        run_together(self._model, [(part, part.left) for part in parts])
        return joined(parts)

    def _feed(self, cache: Cache, tokens: list[int]) -> Logits:
        """Feed one sequence; return the logits after its last token."""
        out = self._model(mx.array([tokens]), cache=cache)[0, -1].astype(mx.float32)
        mx.eval(out, [layer.state for layer in cache])
        return np.array(out)

    def _step(self, cache: Cache, tokens: list[int]) -> list[Logits]:
        """Feed one token of each sequence of a batch; return the logits of each."""
        share_offsets(cache)
        out = self._model(mx.array(tokens)[:, None], cache=cache)[:, -1].astype(mx.float32)
        mx.eval(out)
        return list(np.array(out))

    # ---- judgement

    def _difference(self, expected: list[Logits], found: list[Logits], where: str) -> str:
        errors = sorted(difference(*pair) for pair in zip(expected, found, strict=True))
        # Rounding to half precision may choose another expert at one step.
        error = errors[len(errors) // 2] if self._tolerance == HALF_TOLERANCE else errors[-1]
        if error <= self._tolerance:
            return ""
        return f"its logits differ by {error:.2g} standard deviations {where}"

    def _guarded(self, check: Check) -> str:
        """Return what a check says. A failure of the model is an answer as well."""
        try:
            return check()
        except Exception as exc:
            not_device_failure(exc)
            if shortage(exc) is not None:
                raise
            reason = (str(exc).splitlines() or [type(exc).__name__])[0]
            return f"{type(exc).__name__}: {reason}"[:200]


def difference(expected: Logits, found: Logits) -> float:
    """Return the largest difference, relative to the standard deviation of what is expected."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return float("inf")
    spread = float(np.std(expected[finite])) or 1.0
    return float(np.max(np.abs(expected - found)[finite], initial=0.0)) / spread


def _tolerance(model: Any) -> float:
    """Norms and scales keep the type in which the model computes."""
    types = {array.dtype for _, array in tree_flatten(model.parameters())}
    halves = {mx.float16, mx.bfloat16}
    return HALF_TOLERANCE if types & halves else FLOAT32_TOLERANCE


def _long_tokens(model: Any) -> int:
    windows = [_window(layer) for layer in _leaves(make_prompt_cache(model))]
    smallest = min((one for one in windows if one is not None), default=0)
    return max(LONG_TOKENS, smallest + BEYOND_WINDOW_TOKENS if smallest <= WINDOW_MAX_TOKENS else 0)


def kv_size(cache: Cache) -> KvSize:
    """Return the size of a model's KV caches, measured on one that covers some tokens."""
    fixed = per_token = 0
    windows: dict[int, int] = {}
    for layer in _leaves(cache):
        size = _bytes(layer)
        # Buffers of keys and values are longer than what they hold.
        capacity = getattr(getattr(layer, "keys", None), "shape", (0, 0, 0))[2]
        if not capacity:
            fixed += size
        elif (most := _window(layer)) is None:
            per_token += size // capacity
        else:
            windows[most] = windows.get(most, 0) + size // capacity
    return KvSize(fixed, per_token, tuple(sorted(windows.items())))


def _leaves(cache: Cache) -> list[Any]:
    """Return the caches of all layers, those of lists one by one."""
    found: list[Any] = []
    for layer in cache:
        found += _leaves(layer.caches) if isinstance(layer, CacheList) else [layer]
    return found


def _bytes(layer: Any) -> int:
    state = [value for _, value in tree_flatten(layer.state)] if not layer.empty() else []
    return sum(value.nbytes for value in state if isinstance(value, mx.array))


def _window(layer: Any) -> int | None:
    """Return the tokens at which the cache stops to grow, or None."""
    most = getattr(layer, "max_size", None) or getattr(layer, "chunk_size", None)
    return most if isinstance(most, int) else None
