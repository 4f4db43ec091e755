"""Every error in the table, as the fast path and the full program report it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.client.fast.options import SPEC_HINT
from mlxd.client.fast.text import VERSION
from mlxd.protocol.errors import CLIENT_ERRORS, ERRORS, EXITS, exit_codes
from support.commands import runner
from support.places import FAKE_DAEMON, own_environ

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=sorted(ERRORS))
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A daemon that answers everything with one error."""
    environ = {
        **own_environ(tmp_path),
        "FAKE_DAEMON": f"error:{request.param}",
        "FAKE_VERSION": VERSION,
    }
    for name in ("mlxd-run", "log", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    process = subprocess.Popen(FAKE_DAEMON, env=environ)
    try:
        while not Path(environ["MLXD_SOCKET"]).exists():
            assert process.poll() is None
        yield request.param, environ
    finally:
        process.kill()
        process.wait()


def test_mlx_prints_every_error_with_its_next_step_and_exit_code(
    failing: tuple[str, dict[str, str]],
) -> None:
    code, environ = failing
    kind = ERRORS[code]
    step = kind.default_hint
    if step.startswith(SPEC_HINT):
        step = "See: mlx ask --help"  # more useful in a terminal than the specification
    for way in ((), ("--json",)):
        done = runner(environ)("ask", *way, "hi")
        assert (done.returncode, done.stdout) == (kind.exit_code, "")
        assert done.stderr == f"mlx: It went wrong.\n     {step}\n"


def test_every_error_has_a_meaning_a_hint_and_a_documented_exit_code() -> None:
    for kind in (*ERRORS.values(), *CLIENT_ERRORS):
        assert kind.meaning.endswith((".", ";"))
        assert kind.default_hint
        assert kind.exit_code in EXITS


def test_the_documentation_lists_the_exit_codes_of_the_table() -> None:
    for page in ("README.md", "docs/cli.md", "docs/troubleshooting.md"):
        words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        for code, meaning in EXITS.items():
            assert f"{code} {meaning.partition(' (')[0].partition(',')[0]}" in words, page
    assert exit_codes().startswith("0 success · 1 unexpected error")


def test_the_troubleshooting_page_is_generated_from_the_tables() -> None:
    tool = ROOT / "tools" / "troubleshooting.py"
    check = subprocess.run([sys.executable, str(tool), "--check"], check=False)
    assert check.returncode == 0, "python tools/troubleshooting.py"
