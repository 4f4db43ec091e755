"""The way of an ordinary `mlx ask`: nothing is imported that the request does not need."""
