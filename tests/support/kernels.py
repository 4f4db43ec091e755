"""Builds the kernels that all engines of the tests share, as a program.

The engine's own builder uses idle processor time only, of which a run of the tests leaves little.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from support.engine_process import engine_environment

BUILDER = "mlxd.daemon.engine.backend.cpu.rope_norm"


def main() -> None:
    if sys.platform.startswith("linux") and shutil.which("g++") is not None:
        command = [sys.executable, "-c", f"from {BUILDER} import build; build()"]
        subprocess.run(command, env=engine_environment(), check=True)


if __name__ == "__main__":
    main()
