"""Checks of the tests themselves: reading finds those that cannot fail."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def raises_nothing(work: Callable[[], object]) -> None:
    """Fail if `work` raises an exception. For tests of what is left alone."""
    try:
        work()
    except Exception as exc:
        raise AssertionError(f"it raised {exc!r}") from exc


def functions(folder: Path) -> list[tuple[Path, Function]]:
    """Return every function in the Python files below a folder."""
    return [
        (file, node)
        for file in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    ]


def without_a_check(found: Iterable[tuple[Path, Function]]) -> Iterator[tuple[Path, Function]]:
    """Yield the tests that neither assert anything nor call a function of the tests that does."""
    everything = list(found)
    checking = {"raises", "warns", "fail"}  # of pytest
    while grown := {
        function.name
        for _, function in everything
        if function.name not in checking and _checks(function, checking)
    }:
        checking |= grown
    for file, function in everything:
        if function.name.startswith("test_") and function.name not in checking:
            yield file, function


def _checks(function: Function, checking: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call) and _called(node) in checking:
            return True
    return False


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def always_true(found: Iterable[tuple[Path, Function]]) -> Iterator[tuple[Path, ast.Assert]]:
    """Yield assertions that always hold: of a text, a tuple, a lambda."""
    for file, function in found:
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and any(map(_is_true, _alternatives(node.test))):
                yield file, node


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
