"""Runs `python -m mlxd.client.cli`, which the fast path starts for uncommon cases."""

from mlxd.client.cli import main

main()
