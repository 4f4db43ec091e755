"""`python -m mlxd.daemon.cli`, which the launcher and `mlxd start` run."""

from mlxd.daemon.cli import main

if __name__ == "__main__":
    main()
