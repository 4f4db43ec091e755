"""The engine: a child process that owns everything of MLX. Only files named `mlx_*` import it."""
