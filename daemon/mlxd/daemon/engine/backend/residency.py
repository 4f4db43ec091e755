"""Keeps weights resident on macOS while nothing is computed. Set before MLX is imported."""

from __future__ import annotations

from collections.abc import MutableMapping

REFRESH_VARIABLE = "MLX_METAL_RESIDENCY_REFRESH_INTERVAL_MS"


def keep_resident(interval_ms: int, environ: MutableMapping[str, str], platform: str) -> None:
    """Let MLX request residency again and again, unless the user has set the variable.

    On macOS 26, weights that are not requested for about a second go cold, and the next token
    waits for them (llama.cpp pull request 17766). MLX has this since 0.32.4, and it is off there.
    """
    if platform == "darwin" and interval_ms > 0:
        environ.setdefault(REFRESH_VARIABLE, str(interval_ms))
