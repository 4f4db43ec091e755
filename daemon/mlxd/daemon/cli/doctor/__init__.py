"""`mlxd doctor`: a table of checks, each with a verdict and the next step."""
