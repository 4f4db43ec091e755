"""Requirements of tests that not every machine meets.

`scripts/setup dev` installs the programs. If one is missing, or the kernel does not permit what a
test does, the test is skipped. With `MLXD_TESTS_WHOLE` set, as in CI, the test fails instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

WHOLE = "MLXD_TESTS_WHOLE"


def missing(why: str) -> NoReturn:
    """Skip the test, or fail it if `MLXD_TESTS_WHOLE` is set."""
    if os.environ.get(WHOLE):
        pytest.fail(f"{why} ({WHOLE} is set: nothing may be skipped)", pytrace=False)
    pytest.skip(why)


def program(name: str) -> str:
    """Return the path of a program."""
    return shutil.which(name) or missing(f"{name} is not installed")


def proc() -> None:
    """Require /proc."""
    if not Path("/proc/self/status").exists():
        missing("there is no /proc")


def preloaded(source: str, library: Path) -> Path:
    """Compile C source into a library for LD_PRELOAD. Returns its path."""
    compiler = program("cc")
    if not sys.platform.startswith("linux"):
        missing("there is no LD_PRELOAD")
    code = library.with_suffix(".c")
    code.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, code], check=True)
    return library


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")
