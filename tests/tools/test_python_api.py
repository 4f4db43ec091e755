"""The Python API page is generated from the docstrings, and every public name has one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import mlxd.client

ROOT = Path(__file__).parents[2]


def test_the_python_api_page_is_generated_from_the_docstrings() -> None:
    tool = ROOT / "tools" / "python_api.py"
    check = subprocess.run([sys.executable, str(tool), "--check"], check=False)
    assert check.returncode == 0, "python tools/python_api.py"


def test_every_exported_name_can_be_imported_and_has_a_docstring() -> None:
    assert set(mlxd.client.__all__) == set(mlxd.client.PLACES)
    for name in mlxd.client.__all__:
        thing = getattr(mlxd.client, name)
        if not issubclass(thing, Exception):
            assert inspect.getdoc(thing), name
