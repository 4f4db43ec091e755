"""Which sequences run next, and for how long. Pure: no MLX, no clock of its own."""
