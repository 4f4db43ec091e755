"""Checks of the tests themselves: reading finds those that cannot fail."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FROM_A_TABLE = "TABLE[key]()"
"""Stands for a function that is looked up in a table of checks."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a test file: what it calls by name, and its assertions."""

    file: Path
    name: str
    line: int
    calls: frozenset[str]
    asserts: tuple[ast.Assert, ...]
    raises: bool


def raises_nothing(work: Callable[[], object]) -> None:
    """Fail if `work` raises an exception. For tests of what is left alone."""
    try:
        work()
    except Exception as exc:
        raise AssertionError(f"it raised {exc!r}") from exc


def functions(folder: Path) -> list[Function]:
    """Return every function in the Python files below a folder."""
    return [
        _read(file, node)
        for file in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _read(file: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    nodes = list(ast.walk(function))
    return Function(
        file,
        function.name,
        function.lineno,
        frozenset(_called(node) for node in nodes if isinstance(node, ast.Call)),
        tuple(node for node in nodes if isinstance(node, ast.Assert)),
        any(isinstance(node, ast.Raise) for node in nodes),
    )


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    if isinstance(call.func, ast.Subscript):
        return FROM_A_TABLE
    return call.func.id if isinstance(call.func, ast.Name) else ""


def without_a_check(found: Iterable[Function]) -> Iterator[Function]:
    """Yield the tests that neither assert anything nor call a function of the tests that does."""
    everything = list(found)
    checking = {"raises", "warns", "fail", FROM_A_TABLE}  # the first three are pytest's
    checking |= {one.name for one in everything if one.asserts or one.raises}
    while grown := {one.name for one in everything if one.calls & checking} - checking:
        checking |= grown
    for one in everything:
        if one.name.startswith("test_") and one.name not in checking:
            yield one


def always_true(found: Iterable[Function]) -> Iterator[ast.Assert]:
    """Yield assertions that always hold: of a text, a tuple, a lambda."""
    for one in found:
        for node in one.asserts:
            if any(map(_is_true, _alternatives(node.test))):
                yield node


def _alternatives(condition: ast.expr) -> list[ast.expr]:
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.Or):
        return condition.values
    return [condition]


def _is_true(condition: ast.expr) -> bool:
    if isinstance(condition, ast.Tuple):
        return bool(condition.elts)
    if isinstance(condition, ast.Constant):
        return bool(condition.value)
    return isinstance(condition, ast.GeneratorExp | ast.JoinedStr | ast.Lambda)
