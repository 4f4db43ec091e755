"""The engine: a child process that runs all MLX code. Only files named `mlx_*` import MLX."""
