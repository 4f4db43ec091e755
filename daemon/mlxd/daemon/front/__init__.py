"""The front: owns the socket, admits requests, watches over the engine. Never imports MLX."""
