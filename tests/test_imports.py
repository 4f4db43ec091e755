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


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


SOURCES = [
    p for part in ("protocol", "client", "daemon", "launchd") for p in (ROOT / part).rglob("*.py")
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_engines_mlx_files_import_mlx(path: Path):
    if path.parent.name == "engine" and path.name.startswith("mlx_"):
        return
    assert not imported(path) & HEAVY, "the front must stay small and ready at once"


def test_the_fast_path_imports_what_is_built_in_and_nothing_else():
    for path in (ROOT / "client/mlxd/client/fast").glob("mlx_*.py"):
        assert imported(path) <= FAST_MAY_IMPORT, f"{path.name} would cost start-up time"
