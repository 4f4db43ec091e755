"""The graph of imports between the modules of the programs, made from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("protocol", "client", "daemon", "launchd")
FAST = "mlxd.client.fast."
FAST_MODULES = ("main", "options", "text", "wire")
PEERCRED = "peercred"  # of mlxd.safesocket; the fast path finds it by its bare name
Graph = dict[str, set[str]]


def import_graph(root: Path) -> Graph:
    """Return each module and the modules that it imports, wherever the import is written.

    Imports inside functions and below TYPE_CHECKING count as well. Importing a submodule runs its
    package first, but that is no dependency of the importer on the package's own code.
    """
    files: dict[str, Path] = {}
    for package in PACKAGES:
        for file in (root / package / "mlxd").rglob("*.py"):
            parts = file.relative_to(root / package).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {name: set(_imports(name, file, files)) - {name} for name, file in files.items()}


def _imports(name: str, file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (
                full for alias in node.names if (full := _full_name(name, alias.name)) in known
            )
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, file, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield from (one for one in (inner if inner in known else base,) if one in known)


def _full_name(importer: str, module: str) -> str:
    """Return the full name of a module. The fast path imports its own modules by bare names."""
    if not importer.startswith(FAST):
        return module
    if module == PEERCRED:
        return f"mlxd.safesocket.{module}"
    return FAST + module if module in FAST_MODULES else module


def _absolute(name: str, file: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return _full_name(name, node.module or "")
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def circles(graph: Graph) -> list[frozenset[str]]:
    """Return the sets of modules that import each other (strongly connected, more than one)."""
    order: list[str] = []
    seen: set[str] = set()
    for name in graph:
        _visit(name, graph, seen, order)
    backwards: Graph = {name: set() for name in graph}
    for name, targets in graph.items():
        for target in targets:
            backwards[target].add(name)
    assigned: set[str] = set()
    found = []
    for name in reversed(order):
        group: list[str] = []
        _visit(name, backwards, assigned, group)
        if len(group) > 1:
            found.append(frozenset(group))
    return found


def _visit(name: str, graph: Graph, seen: set[str], order: list[str]) -> None:
    if name in seen:
        return
    seen.add(name)
    for target in sorted(graph[name]):
        _visit(target, graph, seen, order)
    order.append(name)
