"""A test run that leaves a process behind fails and names the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import needs
from support.leftovers import MARK
from support.waiting import ended

LEAVES = """
import subprocess
def test_that_passes():
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("left", child.pid)
"""
LEAVES_NOTHING = """
def test_that_passes():
    pass
"""


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LEFTOVERS_GRACE_S": "0"}
    environ.pop(MARK, None)  # independent of this test run
    arguments = ["-q", "-s", "-p", "support.leftovers", "-p", "no:cacheprovider", "test_it.py"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@needs.linux_only
@pytest.mark.parametrize(("text", "status"), [(LEAVES, 1), (LEAVES_NOTHING, 0)])
def test_a_test_run_that_leaves_a_process_behind_fails(
    tmp_path: Path, text: str, status: int
) -> None:
    done = run(tmp_path, text)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("sleep 1000" in done.stdout) == bool(status)
    for line in done.stdout.splitlines():
        if line.startswith("left "):
            assert ended(int(line.split()[1].rstrip(".")))
