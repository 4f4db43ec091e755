"""`scripts/verify-mac`: its steps exist, it judges results, and on Linux it only lists steps."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.documented import unknown_parts

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "verify-mac"


@cache
def script() -> Any:
    loader = SourceFileLoader("verify_mac", str(SCRIPT))
    module = ModuleType(loader.name)
    module.__file__ = str(SCRIPT)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def test_a_dry_run_lists_every_step_on_any_platform() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run"], capture_output=True, text=True, check=True
    )
    for step in script().STEPS:
        assert f"{step.title}\n" in done.stdout
    for point in ("pytest", "mlxd install", "mlxd uninstall", "pmset", "--only idle", "sleep"):
        assert point in done.stdout


def test_its_commands_and_files_exist() -> None:
    for step in script().STEPS:
        words = step.command.replace(f"{script().BIN}/", "")
        assert [*unknown_parts(words)] == []
    assert [path for path in script().TESTS if not (ROOT / path).exists()] == []


def test_on_another_system_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert script().main([], system="Linux") == 2
    assert "--dry-run" in capsys.readouterr().err


def test_steps_pass_or_fail_by_status_and_output_and_the_person_is_asked() -> None:
    step = script().Step
    steps = [
        step("good", "echo fine", "fine"),
        step("other output", "echo bad", "fine"),
        step("other status", "false"),
        step("must fail", "false", status=-1, prompt="Do something."),
        step("must not succeed", "true", status=-1),
    ]
    asked: list[str] = []
    results = script().verify(steps, wait=asked.append)
    assert [one.passed for one in results] == [True, False, False, True, False]
    assert asked == ["Do something. "]
    text = script().report(results)
    assert "ok     good" in text
    assert "FAILED other output" in text
    assert "$ echo bad\nbad" in text
