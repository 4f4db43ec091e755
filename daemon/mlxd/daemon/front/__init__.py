"""The front: owns the socket, admits requests and supervises the engine. Never imports MLX."""
