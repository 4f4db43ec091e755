"""MLX's CPU backend: BLAS threads, kernels, faster operations."""
