"""`mx.fast.rope` and `mx.fast.rms_norm` with fewer operations, for MLX's CPU backend.

Metal and CUDA have a kernel for each. The CPU backend composes them from 25 and 12 operations per
call, and schedules, allocates and dispatches each operation. In a decoding step of a small model
they are more than half of all operations. The functions here compute the same numbers with 6 and 4
operations. `docs/decisions/003-fewer-operations.md` has the figures.

`rope` also starts the computation of each layer, because MLX would otherwise be idle while Python
builds the graph of a step. `docs/decisions/005-layers-begun-early.md` has the figures.

The norm, and the exponentials of `backend/cpu/exp.py`, use kernels that MLX compiles with the
machine's C++ compiler, which takes seconds. A separate process compiles them (`python -m
mlxd.daemon.engine.backend.cpu.rope_norm`), once per version of MLX and with idle CPU time only.
Until it has finished, the engine uses MLX's own functions. The engine compiles nothing else on the
CPU, as `backend/cpu/compiling.py` explains.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxd.daemon import lifeline
from mlxd.daemon.engine.backend.cpu import exp
from mlxd.daemon.engine.backend.cpu.compiling import compile_nothing, kernel
from mlxd.daemon.isolation import python_command
from mlxd.daemon.stderr import report

BUILDER = tuple(python_command("mlxd.daemon.engine.backend.cpu.rope_norm"))
SLOWER = "MLX's own functions are used, which take twice as long for a long prompt"
NO_COMPILER = f"There is no g++ to build the engine's kernels: {SLOWER}. Install g++."
NOT_BUILT = (
    f"The engine's kernels were not built (exit status {{}}): {SLOWER}. See the compiler's output "
    "above."
)

_rope = mx.fast.rope
_rms_norm = mx.fast.rms_norm


def install(builder: Sequence[str] = BUILDER) -> subprocess.Popen[bytes] | None:
    """Replace MLX's functions, for all models of this process.

    If the kernels are not built yet, start the command `builder` with this process's id and return
    its process. Then call `built` from time to time.
    """
    compile_nothing()
    mx.fast.rope = rope
    if _marker().exists():
        _use_kernels()
        return None
    if shutil.which("g++") is None:
        report(NO_COMPILER)
        return None
    return subprocess.Popen([*builder, str(os.getpid())], stdin=subprocess.DEVNULL)


def built(builder: subprocess.Popen[bytes]) -> bool:
    """Return whether the builder has ended. If it succeeded, start to use the kernels."""
    status = builder.poll()
    if status == 0:
        _use_kernels()
    elif status is not None:
        report(NOT_BUILT.format(status))
    return status is not None


@contextlib.contextmanager
def original() -> Iterator[None]:
    """Use MLX's own functions during a `with` block."""
    replaced = mx.fast.rope, mx.fast.rms_norm
    mx.fast.rope, mx.fast.rms_norm = _rope, _rms_norm
    try:
        with exp.original():
            yield
    finally:
        mx.fast.rope, mx.fast.rms_norm = replaced


def _use_kernels() -> None:
    _run_kernels()  # loads them, so the cache folder may be cleared afterwards
    mx.fast.rms_norm = rms_norm
    exp.install()


def main() -> None:
    """Build the kernels in idle processor time, for the engine with the process id argv[1]."""
    lifeline.end_with(int(sys.argv[1]))
    _give_way()
    build()


def build() -> None:
    """Compile the kernels, then create the marker file. A second builder waits for the first."""
    compile_nothing()
    marker = _marker()
    marker.parent.mkdir(parents=True, exist_ok=True)
    with marker.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists():
            _run_kernels()
            marker.touch()


def _give_way() -> None:
    """Use idle CPU time only. The compiler, a child process, inherits this."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # some sandboxes forbid this
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _run_kernels() -> None:
    """Run each kernel with the shapes that decoding and prefill use."""
    for rows, length, heads in itertools.product((1, 2), (1, 2), ((), (2,))):
        mx.eval(rms_norm(mx.ones((rows, length, *heads, 8)), mx.ones((8,)), 1e-6))
    exp.build()


def _marker() -> Path:
    # In MLX's cache folder, so that both are removed together. The number is the kernels' version.
    folder = os.environ.get("TMPDIR", "/tmp")
    return Path(folder, "mlx", version("mlx"), "cpu", "mlxd-kernels-3")


def rope(
    a: mx.array,
    dims: int,
    *,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: int | mx.array,
    freqs: mx.array | None = None,
    stream: Any = None,
) -> mx.array:
    """Return `a` (batch, heads, length, dims) with rotary positions, as `mx.fast.rope` does."""
    if traditional or a.ndim != 4 or dims != a.shape[-1] or stream is not None:
        return _rope(
            a, dims, traditional=traditional, base=base, scale=scale, offset=offset,
            freqs=freqs, stream=stream,
        )  # fmt: skip
    cosines, sines = _waves(a, dims, base, scale, offset, freqs)
    first, second = mx.split(a, 2, axis=-1)
    rotated = a * cosines + mx.concatenate([second, first], axis=-1) * sines
    if _last.uses % 2 == 0:  # a layer's keys, which the cache needs in any case
        _begin(rotated)
    return rotated


def _begin(array: mx.array) -> None:
    """Start to compute the graph so far, while Python builds that of the next layer."""
    with contextlib.suppress(ValueError):  # inside a transformation nothing can be computed
        mx.async_eval(array)


class _Waves:
    """The cosines and sines of the last call. The other layers of a step use the same ones."""

    def __init__(self) -> None:
        self.numbers: tuple[Any, ...] = ()
        self.offset: int | mx.array = 0
        self.freqs: mx.array | None = None
        self.arrays: tuple[mx.array, mx.array] | None = None
        self.uses = 0

    def fit(self, numbers: tuple[Any, ...], offset: int | mx.array, freqs: Any) -> bool:
        """Return whether they apply to this call.

        Arrays are compared by identity, because reading one would compute it.
        """
        if self.numbers != numbers or self.freqs is not freqs:
            return False
        return self.offset is offset or (
            isinstance(offset, int) and isinstance(self.offset, int) and self.offset == offset
        )


_last = _Waves()


def _waves(
    a: mx.array, dims: int, base: float | None, scale: float, offset: int | mx.array, freqs: Any
) -> tuple[mx.array, mx.array]:
    """Return cosines and signed sines, shape (length, dims)."""
    length, dtype = a.shape[2], a.dtype
    numbers = (length, dims, base, scale, dtype)
    if _last.arrays is None or not _last.fit(numbers, offset, freqs):
        positions = mx.arange(length, dtype=mx.float32) + _column(offset)
        if scale != 1.0:
            positions = positions * scale
        theta = mx.expand_dims(positions, -1) * _speeds(dims, base, freqs)
        sines = mx.sin(theta).astype(dtype) * _signs(dims).astype(dtype)
        _last.numbers, _last.offset, _last.freqs = numbers, offset, freqs
        _last.arrays = (mx.cos(theta).astype(dtype), sines)
        _last.uses = 0
    _last.uses += 1
    return _last.arrays


def _column(offset: int | mx.array) -> int | mx.array:
    if isinstance(offset, mx.array) and offset.size > 1:
        return mx.expand_dims(offset, (-1, -2))
    return offset


def _speeds(dims: int, base: float | None, freqs: mx.array | None) -> mx.array:
    if freqs is not None:
        half = mx.reciprocal(freqs)
        return mx.concatenate([half, half])
    assert base is not None, "either a base or frequencies"
    return _speeds_of_base(dims, base)


@functools.lru_cache(maxsize=64)
def _speeds_of_base(dims: int, base: float) -> mx.array:
    half = dims // 2
    steps = mx.arange(0, -half, -1, dtype=mx.float32)
    speeds = mx.exp(steps * mx.array(math.log(base) / half, mx.float32))
    return mx.concatenate([speeds, speeds])


@functools.lru_cache(maxsize=64)
def _signs(dims: int) -> mx.array:
    half = dims // 2
    return mx.concatenate([mx.full((half,), -1.0), mx.full((half,), 1.0)])


def rms_norm(x: mx.array, weight: mx.array | None, eps: float, *, stream: Any = None) -> mx.array:
    """Return `x` (…, dims) divided by the root mean square of its last axis, as
    `mx.fast.rms_norm`."""
    if weight is None or stream is not None or {x.dtype, weight.dtype} != {mx.float32}:
        return _rms_norm(x, weight, eps, stream=stream)
    squares = mx.sum(mx.square(x), axis=-1, keepdims=True)
    return _scaled(x, weight, squares, *_constants(x.shape[-1], eps))


@kernel
def _scaled(
    x: mx.array, weight: mx.array, squares: mx.array, share: mx.array, eps: mx.array
) -> mx.array:
    return x * mx.rsqrt(squares * share + eps) * weight


@functools.lru_cache(maxsize=64)
def _constants(dims: int, eps: float) -> tuple[mx.array, mx.array]:
    return mx.array(1 / dims, mx.float32), mx.array(eps, mx.float32)


if __name__ == "__main__":
    main()
