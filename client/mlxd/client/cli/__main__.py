"""`python -m mlxd.client.cli`: what the fast path hands over to."""

from mlxd.client.cli import main

main()
