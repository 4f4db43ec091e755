"""Imports run one way. `import-linter` holds the packages; this holds single files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"mlx", "mlx_lm"}
FAST_MAY_IMPORT = {
    "posix", "sys", "_socket", "_struct", "mlx_fast_text", "mlx_options", "mlx_wire",
}  # fmt: skip


def imported(path: Path, *, at_once: bool = False) -> set[str]:
    """Return the top packages a file imports; only those at its first lines with `at_once`."""
    found: set[str] = set()
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in module.body if at_once else ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


SOURCES = [
    path
    for part in ("protocol", "client", "daemon", "launchd")
    for path in (ROOT / part).rglob("*.py")
    if "node_modules" not in path.parts  # what npm has installed is not ours
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_engine_imports_mlx(path: Path):
    if ROOT / "daemon/mlxd/daemon/engine" in path.parents:
        return
    assert not imported(path) & HEAVY, "the front must stay small and ready at once"


def test_the_fast_path_imports_what_is_built_in_and_nothing_else():
    for path in (ROOT / "client/mlxd/client/fast").glob("mlx_*.py"):
        assert imported(path, at_once=True) <= FAST_MAY_IMPORT, f"{path.name}: start-up time"
