"""The examples of the protocol's specification are short, and work if their runtime exists."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import needs
from support.daemon_process import Daemon, running_daemon

EXAMPLES = Path(__file__).resolve().parents[2] / "protocol" / "examples"
SPEC = EXAMPLES.parent / "SPEC.md"
RUN = {
    "ask.py": [sys.executable],
    "ask.lua": ["lua5.4"],
    "ask.mjs": ["node"],
    "ask.go": ["go", "run"],
    "ask.sh": ["sh"],
}
MOST_LINES = 30


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        yield running


def test_every_example_is_tested_and_named_in_the_specification() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(RUN)
    text = SPEC.read_text(encoding="utf-8")
    for name in RUN:
        assert f"examples/{name}" in text
        assert len((EXAMPLES / name).read_text().splitlines()) <= MOST_LINES


def run(name: str, daemon: Daemon, question: str) -> subprocess.CompletedProcess[str]:
    program = needs.program(RUN[name][0])
    if (
        name == "ask.lua"
        and subprocess.run(
            [program, "-e", 'require "socket.unix"; require "cjson"'],
            capture_output=True,
            check=False,
        ).returncode
    ):
        needs.missing("Lua's socket and cjson are not installed")
    return subprocess.run(
        [program, *RUN[name][1:], str(EXAMPLES / name), question],
        env={**daemon.environ, "GOCACHE": str(daemon.folder / "go"), "GOFLAGS": "-mod=mod"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(RUN))
def test_every_example_prints_the_answer(name: str, daemon: Daemon) -> None:
    done = run(name, daemon, "Count from 3 to 7.")
    assert (done.returncode, done.stdout) == (0, "3, 4, 5, 6, 7\n"), done.stderr


@pytest.mark.parametrize("name", list(RUN))
def test_every_example_prints_errors_with_the_next_step(name: str, daemon: Daemon) -> None:
    done = run(name, daemon, "word " * 17_000)
    assert done.returncode != 0
    assert "tokens" in done.stderr
    assert "Shorten the prompt" in done.stderr
