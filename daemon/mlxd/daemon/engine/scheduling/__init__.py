"""Decides which sequences run next, and for how long. Pure: no MLX, no clock."""
