"""Every test can fail."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from support.checks import Function, always_true, functions, without_a_check

TESTS = Path(__file__).resolve().parents[1]
EXAMPLE = """
def test_that_cannot_fail(): print("hello")
def test_of_a_text(): assert "error" in "" or "no error"
def test_of_a_tuple(): assert (1 == 2, "they are the same")
def test_by_a_helper(): holds(1)
def holds(number): agrees(number)
def agrees(number): assert number == 2
"""


@pytest.fixture(scope="module")
def written() -> list[Function]:
    return functions(TESTS)


def test_every_test_checks_something(written: list[Function]) -> None:
    found = without_a_check(written)
    assert [f"{one.file.name}:{one.line} {one.name}" for one in found] == []


def test_no_assertion_is_true_by_its_form(written: list[Function]) -> None:
    assert [ast.unparse(node) for node in always_true(written)] == []


def test_tests_that_cannot_fail_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(EXAMPLE)
    example = functions(tmp_path)
    assert [one.name for one in without_a_check(example)] == ["test_that_cannot_fail"]
    assert [node.lineno for node in always_true(example)] == [3, 4]
