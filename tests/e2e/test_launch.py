"""`mlx launch` with the real bridge and a program in place of the tool."""

from __future__ import annotations

import os
from pathlib import Path

from support.bridge import Bridge
from support.commands import Run


def test_a_tool_is_started_with_its_settings_and_arguments(
    bridge: Bridge, mlx: Run, tmp_path: Path
) -> None:
    tool = tmp_path / "cn"
    tool.write_text('#!/bin/sh\necho "$1 $3 $4"\ncat "$2"\necho "$2" >"$0.seen"\nexit 7\n')
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = mlx("launch", "cn", "--", "-p", "hello", PATH=path)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith("--config -p hello\n")
    assert f"{bridge.url}/v1" in done.stdout
    assert not Path((tmp_path / "cn.seen").read_text().strip()).exists()


def test_the_settings_can_be_printed(bridge: Bridge, mlx: Run) -> None:
    done = mlx("launch", "--print", "--force", "claude", "-c")
    assert done.returncode == 0, done.stderr
    assert f"export ANTHROPIC_BASE_URL={bridge.url}\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("claude -c")


def test_a_model_with_too_little_context_is_refused(bridge: Bridge, mlx: Run) -> None:
    done = mlx("launch", "--print", "claude")
    assert done.returncode == 6
    assert "32,768" in done.stderr
    assert "mlx models search" in done.stderr


def test_a_tool_that_is_not_installed_is_named(mlx: Run) -> None:
    done = mlx("launch", "opencode", PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert "--print" in done.stderr
