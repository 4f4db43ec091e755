"""Imports go one way. `import-linter` checks the packages; these tests check single files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support.import_graph import FAST_MODULES, circles, import_graph

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"mlx", "mlx_lm"}
FAST_MAY_IMPORT = {
    "posix", "sys", "_signal", "_socket", "_struct", "text", "options", "wire",
    "peercred",
}  # fmt: skip


def imported(path: Path, *, at_once: bool = False) -> set[str]:
    """Return the top-level packages that a file imports. With `at_once`, at module level only."""
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
    if "node_modules" not in path.parts  # installed by npm
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_engine_imports_mlx(path: Path) -> None:
    if ROOT / "daemon/mlxd/daemon/engine" in path.parents:
        return
    assert not imported(path) & HEAVY, "the front must stay small and start fast"


def test_the_fast_path_imports_only_built_in_modules() -> None:
    fast = [*(ROOT / "client/mlxd/client/fast").glob("*.py"),
            ROOT / "protocol/mlxd/safesocket/peercred.py"]  # fmt: skip
    for path in fast:
        assert imported(path, at_once=True) <= FAST_MAY_IMPORT, f"{path.name}: start-up time"


def test_no_new_circular_imports_exist() -> None:
    graph = import_graph(ROOT)
    assert len(graph) > 150
    assert circles(graph) == []


def test_the_graph_has_the_fast_path_which_imports_by_bare_names() -> None:
    fast = {path.stem for path in (ROOT / "client/mlxd/client/fast").glob("[a-z]*.py")}
    assert fast == set(FAST_MODULES)
    imported_by_main = import_graph(ROOT)["mlxd.client.fast.main"]
    assert {"mlxd.client.fast.wire", "mlxd.safesocket.peercred"} <= imported_by_main


def test_circular_imports_are_found_at_any_place_in_a_module(tmp_path: Path) -> None:
    files = {
        "daemon/mlxd/daemon/__init__.py": "",
        "daemon/mlxd/daemon/a.py": "def f():\n    from mlxd.daemon.b import x\n",
        "daemon/mlxd/daemon/b.py": "if TYPE_CHECKING:\n    from . import c\n",
        "daemon/mlxd/daemon/c.py": "import mlxd.daemon.a\n",
        "daemon/mlxd/daemon/d.py": "import mlxd.daemon.a\nimport os\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circles(import_graph(tmp_path)) == [frozenset(f"mlxd.daemon.{x}" for x in "abc")]
