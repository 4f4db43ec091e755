"""Tests whether MLX starts, on which device, and how fast a matrix product is.

`python -m mlxd.daemon.engine.backend.probe` prints {device, metal, gflops} as JSON. `mlxd doctor`
runs it in a separate process, because only an engine imports MLX.
"""

from __future__ import annotations

import json
import time

import mlx.core as mx

SIZE, TIMES = 512, 4


def main() -> None:
    """Compute a product and print the results."""
    a = mx.random.normal((SIZE, SIZE))
    mx.eval(a @ a)
    started = time.perf_counter()
    for _ in range(TIMES):
        mx.eval(a @ a)
    seconds = time.perf_counter() - started
    found = {
        "device": "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu",
        "metal": mx.metal.is_available(),
        "gflops": TIMES * 2 * SIZE**3 / seconds / 1e9,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
