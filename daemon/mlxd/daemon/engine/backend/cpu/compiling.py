"""Turns MLX's compilation off on the CPU, except for the engine's own kernels.

On the CPU `mx.compile` calls the machine's C++ compiler at a function's first use. This blocks the
compute thread for two seconds on an idle machine, and much longer on a busy one. With compilation
off, functions under `mx.compile`, such as those in mlx-lm's models, run uncompiled. Functions under
`kernel` are always compiled: the builder process has compiled them beforehand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import mlx.core as mx

Given = ParamSpec("Given")
Result = TypeVar("Result")


def compile_nothing() -> None:
    """Turn compilation off for all functions but kernels."""
    mx.disable_compile()


def kernel(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Compile a function in spite of `compile_nothing`, which applies to all others."""
    compiled: Callable[Given, Result] = mx.compile(function, shapeless=True)

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        mx.enable_compile()  # MLX reads the switch at each call, and setting it takes 0.1 µs
        try:
            return compiled(*args, **kwargs)
        finally:
            mx.disable_compile()

    return call
