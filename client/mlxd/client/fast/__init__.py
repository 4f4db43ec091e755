"""The fast path of `mlx ask`, `generate` and `fill`. It imports only what the request needs."""
