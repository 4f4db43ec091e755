"""The fused `rope` and `rms_norm` compute the same as MLX's own, and are used when built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlxd.daemon.engine.backend.cpu import exp, rope_norm

OFFSETS: dict[str, Any] = {
    "number": 17,
    "array of one": mx.array(5),
    "a row each": mx.array([3, 250]),
}


@pytest.fixture(autouse=True)
def restore_functions(monkeypatch: pytest.MonkeyPatch, restore_exponentials: None) -> None:
    """Restore MLX's own functions after each test."""
    monkeypatch.setattr(mx.fast, "rope", rope_norm._rope)
    monkeypatch.setattr(mx.fast, "rms_norm", rope_norm._rms_norm)


def same(mine: mx.array, theirs: mx.array) -> bool:
    equal = mine.dtype == theirs.dtype and mine.shape == theirs.shape
    return equal and bool(mx.allclose(mine, theirs, rtol=1e-6, atol=1e-6).item())


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize(
    "form",
    [
        {"base": 1e4, "scale": 1.0},
        {"base": 5e5, "scale": 0.25},
        {"base": None, "scale": 1.0, "freqs": mx.arange(1, 9, dtype=mx.float32)},
        {"base": 1e4, "scale": 1.0, "traditional": True},
        {"base": 1e4, "scale": 1.0, "dims": 8},
    ],
)
def test_fast_rope_equals_mlx_rope(form: dict[str, Any], dtype: Any, offset: str) -> None:
    arguments = {"traditional": False, "offset": OFFSETS[offset], **form}
    dims = arguments.pop("dims", 16)
    for length in (1, 7):
        a = mx.random.normal((2, 3, length, 16)).astype(dtype)
        assert same(rope_norm.rope(a, dims, **arguments), rope_norm._rope(a, dims, **arguments))


def test_rope_is_recomputed_for_every_offset() -> None:
    a = mx.random.normal((2, 1, 1, 16))
    form: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0}
    shared = mx.array([1, 2])
    for offset in (0, 1, shared, shared, shared + 1, 1):
        mine = rope_norm.rope(a, 16, offset=offset, **form)
        assert same(mine, rope_norm._rope(a, 16, offset=offset, **form))


def test_each_layer_is_evaluated_while_the_next_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[mx.array] = []
    monkeypatch.setattr(mx, "async_eval", begun.append)
    form: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 4711}
    queries, keys = mx.ones((1, 4, 1, 16)), mx.ones((1, 2, 1, 16))
    layers = [(rope_norm.rope(queries, 16, **form), rope_norm.rope(keys, 16, **form)) for _ in "ab"]
    assert [id(array) for array in begun] == [id(rotated) for _, rotated in layers]


def test_no_evaluation_starts_inside_a_transformation() -> None:
    form: dict[str, Any] = {"traditional": False, "base": 1e4, "scale": 1.0, "offset": 3}
    a = mx.random.normal((1, 2, 1, 16))

    def twice(x: mx.array) -> mx.array:
        return rope_norm.rope(x, 16, **form) + rope_norm.rope(x, 16, **form)

    assert same(mx.vjp(twice, [a], [a])[0][0], 2 * rope_norm._rope(a, 16, **form))


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
@pytest.mark.parametrize("shape", [(1, 1, 32), (4, 1, 32), (2, 9, 32), (2, 5, 4, 32)])
def test_fast_rms_norm_equals_mlx_rms_norm(shape: tuple[int, ...], dtype: Any) -> None:
    x = mx.random.normal(shape).astype(dtype)
    for weight in (mx.random.normal((32,)).astype(dtype), mx.random.normal((32,)), None):
        assert same(rope_norm.rms_norm(x, weight, 1e-6), rope_norm._rms_norm(x, weight, 1e-6))


ONE_KERNEL = "rope_norm.rms_norm(mx.ones((1, 1, 8)), mx.ones((8,)), 1e-6)"
ONE_KERNEL_BUILDER = (
    sys.executable,
    "-c",
    f"""
import mlx.core as mx
from mlxd.daemon.engine.backend.cpu import rope_norm
rope_norm._run_kernels = lambda: mx.eval({ONE_KERNEL})
rope_norm._give_way = lambda: None  # at idle priority it would not finish on a busy machine
rope_norm.main()
""",
)
"""The builder with one kernel. Building all of them takes 17 s of CPU time."""


def test_kernels_are_built_in_a_separate_process_and_used_once_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(
        rope_norm,
        "_run_kernels",
        lambda: mx.eval(rope_norm.rms_norm(mx.ones((1, 1, 8)), mx.ones((8,)), 1e-6)),
    )
    builder = rope_norm.install(ONE_KERNEL_BUILDER)
    assert builder is not None
    assert mx.fast.rope is rope_norm.rope
    assert mx.fast.rms_norm is rope_norm._rms_norm, "MLX's own function, until the kernel is built"
    assert builder.wait() == 0
    assert rope_norm.built(builder)
    assert mx.fast.rms_norm is rope_norm.rms_norm
    assert mx.fast.scaled_dot_product_attention is exp.attention
    assert [*tmp_path.rglob("*.so")]
    mx.fast.rms_norm = rope_norm._rms_norm
    assert rope_norm.install() is None, "the next engine finds it"
    assert mx.fast.rms_norm is rope_norm.rms_norm


def test_a_failed_kernel_build_is_logged_and_mlx_functions_stay(
    capfd: pytest.CaptureFixture[str],
) -> None:
    builder = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    builder.wait()
    assert rope_norm.built(builder)
    assert mx.fast.rms_norm is rope_norm._rms_norm
    assert "not built (exit status 3" in capfd.readouterr().err


def test_without_a_compiler_no_kernel_is_built_and_the_log_suggests_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rope_norm.install() is None
    assert mx.fast.rms_norm is rope_norm._rms_norm
    assert "Install g++" in capfd.readouterr().err
