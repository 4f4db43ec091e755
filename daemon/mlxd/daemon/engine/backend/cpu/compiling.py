"""Functions that are compiled for the CPU, and none but those.

On the CPU `mx.compile` calls the machine's C++ compiler at a function's first use: two seconds on
an idle machine, in which the compute thread answers nobody, and much longer on a busy one. With
compilation off, compiled functions, such as those of mlx-lm's models, run as they are written.
`kernel` is for those that another process has had compiled before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import mlx.core as mx

Given = ParamSpec("Given")
Result = TypeVar("Result")


def compile_nothing() -> None:
    """Let functions run as they are written, but for kernels."""
    mx.disable_compile()


def kernel(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Compile a function, whatever `compile_nothing` said; it stays in force for all others."""
    compiled: Callable[Given, Result] = mx.compile(function, shapeless=True)

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        mx.enable_compile()  # looked at when the function is called; switching takes 0.1 us
        try:
            return compiled(*args, **kwargs)
        finally:
            mx.disable_compile()

    return call
