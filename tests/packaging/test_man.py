"""Manual pages and completions are generated from the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import needs

ROOT = Path(__file__).parents[2]
SHARE = ROOT / "packaging" / "share"
MAN = SHARE / "man" / "man1"


def test_manual_pages_and_completions_are_generated_from_the_commands() -> None:
    # In a separate process, because click caches the help option of the first caller.
    command = [sys.executable, str(ROOT / "tools" / "man.py"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, f"Run: python tools/man.py\n{check.stderr}"


@pytest.mark.parametrize("name", ["mlx.1", "mlx-ask.1", "mlx-models-pull.1", "mlxd-logs.1"])
def test_a_manual_page_is_formatted_without_a_warning(name: str) -> None:
    groff = [needs.program("groff"), "-man", "-Tutf8", "-ww", "-z", str(MAN / name)]
    done = subprocess.run(groff, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("shell", "installed"),
    [
        ("bash", "bash-completion/completions/mlxd"),
        ("zsh", "zsh/site-functions/_mlxd"),
        ("fish", "fish/vendor_completions.d/mlxd.fish"),
    ],
)
def test_mlxd_completion_prints_the_installed_script(shell: str, installed: str) -> None:
    command = [sys.executable, "-m", "mlxd.daemon.cli", "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (SHARE / installed).read_text(encoding="utf-8").strip()


def test_mlxd_completes_its_commands() -> None:
    environ = {"_MLXD_COMPLETE": "bash_complete", "COMP_WORDS": "mlxd un", "COMP_CWORD": "1"}
    command = [str(Path(sys.executable).parent / "mlxd")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.split() == ["plain,uninstall"]
