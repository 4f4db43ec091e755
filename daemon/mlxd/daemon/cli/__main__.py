"""`python -m mlxd.daemon.cli`: what the launcher and `mlxd start` run."""

from mlxd.daemon.cli import main

if __name__ == "__main__":
    main()
