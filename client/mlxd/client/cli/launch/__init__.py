"""`mlx launch`: starts a tool that speaks HTTP, set up to use the models of mlxd."""
