"""Every test can fail."""

from __future__ import annotations

from pathlib import Path

from support.checks import always_true, functions, without_a_check

TESTS = Path(__file__).resolve().parents[1]
EXAMPLE = """
def test_that_cannot_fail(): print("hello")
def test_of_a_text(): assert "error" in "" or "no error"
def test_of_a_tuple(): assert (1 == 2, "they are the same")
def test_by_a_helper(): holds(1)
def holds(number): agrees(number)
def agrees(number): assert number == 2
"""


def test_every_test_checks_something() -> None:
    found = without_a_check(functions(TESTS))
    assert [f"{file.name}:{node.lineno} {node.name}" for file, node in found] == []


def test_no_assertion_is_true_by_its_form() -> None:
    found = always_true(functions(TESTS))
    assert [f"{file.name}:{node.lineno}" for file, node in found] == []


def test_tests_that_cannot_fail_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(EXAMPLE)
    written = functions(tmp_path)
    assert [node.name for _, node in without_a_check(written)] == ["test_that_cannot_fail"]
    assert [node.lineno for _, node in always_true(written)] == [3, 4]
