"""The Emacs package's own tests, in the real Emacs with the real daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import needs

PACKAGE = Path(__file__).resolve().parents[2] / "client" / "editors" / "emacs"


def emacs(*arguments: str, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [needs.program("emacs"), "-Q", "--batch", "-L", str(PACKAGE), *arguments],
        env=environ, cwd=PACKAGE, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_emacs_package_passes_its_own_tests(environ: dict[str, str]) -> None:
    said = emacs("-l", "mlxd-tests.el", "-f", "ert-run-tests-batch-and-exit", environ=environ)
    assert "0 unexpected" in said
    assert "Ran 0 tests" not in said


def test_the_emacs_package_compiles_without_warnings(environ: dict[str, str]) -> None:
    code = f"""(progn (setq byte-compile-error-on-warn t byte-compile-dest-file-function
                 (lambda (_) (expand-file-name "mlxd.elc" "{environ["HOME"]}")))
                 (unless (byte-compile-file "{PACKAGE / "mlxd.el"}") (kill-emacs 1)))"""
    emacs("--eval", code, environ=environ)
