"""Starts Python isolated from the caller's environment and working folder.

A file `http.py` or `random.py` in `PYTHONPATH` or in the working folder would replace a module of
the standard library. Variables such as `PYTHONINSPECT` would change how the process runs.
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
"""Ignore PYTHON* variables, the working folder and the user's site-packages."""

WITH_USER_PACKAGES = ("-E", "-P")
WITH_PYTHONPATH = ("-P", "-s")


def python_command(module: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the command that runs a module of this program with this Python."""
    given = os.environ if environ is None else environ
    return [sys.executable, *flags([Path(place) for place in mlxd.__path__], given), "-m", module]


def flags(places: list[Path], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the strictest isolation options with which Python still finds this program.

    `places` are the program's folders. If it runs from `PYTHONPATH`, as in tests, or was installed
    with `pip install --user`, that folder stays on the path.
    """
    chosen = [Path(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if any(place.parent in chosen for place in places):
        return WITH_PYTHONPATH
    users = site.getusersitepackages()
    if any(place.is_relative_to(users) for place in places):
        return WITH_USER_PACKAGES
    return ISOLATED


def settle() -> None:
    """Repair what a parent may leave behind: closed standard streams, an unsuitable umask, a
    deleted working folder.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened, such as the database, would get its number.
            os.open(os.devnull, os.O_RDWR)
    os.umask(0o077)
    try:
        os.getcwd()
    except OSError:
        with contextlib.suppress(OSError):
            os.chdir("/")
