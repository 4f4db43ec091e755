"""How this program starts Python: apart from the surroundings of whoever started it.

A `PYTHONPATH` or a working folder with a file `http.py` or `random.py` in it would replace a module
of the standard library, and variables such as `PYTHONINSPECT` would change how the process runs.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

import mlxd

ISOLATED = ("-I",)
"""Ignore PYTHON* variables, the working folder and the user's own packages."""

WITH_USER_PACKAGES = ("-E", "-P")
WITH_PYTHONPATH = ("-P", "-s")


def python_command(module: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the command that runs a module of this program by this very Python."""
    given = os.environ if environ is None else environ
    return [sys.executable, *flags([Path(place) for place in mlxd.__path__], given), "-m", module]


def flags(places: list[Path], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options that isolate Python as far as it still finds this program.

    `places` are the program's own folders. Where it is run from `PYTHONPATH` (its tests do that),
    or was installed with `pip install --user`, that one place is kept.
    """
    chosen = [Path(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if any(place.parent in chosen for place in places):
        return WITH_PYTHONPATH
    users = site.getusersitepackages()
    if any(place.is_relative_to(users) for place in places):
        return WITH_USER_PACKAGES
    return ISOLATED


def settle() -> None:
    """Put right what a careless parent leaves: closed standard streams, a loose or impossible
    umask, a working folder that was deleted.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened, such as a database, would take its number.
            os.open(os.devnull, os.O_RDWR)
    os.umask(0o077)
    try:
        os.getcwd()
    except OSError:
        with contextlib.suppress(OSError):
            os.chdir("/")
