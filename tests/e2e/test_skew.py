"""Client and daemon of different versions understand each other, and say so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mlxd.client.fast.mlx_fast_text import VERSION
from support.daemon_process import running_daemon

ROOT = Path(__file__).resolve().parents[2]
OTHER = '"""Another version."""\n\n\ndef version() -> str:\n    return "9.9.9"\n'


def test_the_client_knows_its_own_version():
    assert metadata.version("mlxd") == VERSION


@pytest.mark.parametrize("options", [[], ["--template", "plain"]])
def test_another_daemon_answers_and_the_client_advises(tmp_path: Path, options: list[str]):
    shutil.copytree(ROOT / "daemon" / "mlxd", tmp_path / "daemon" / "mlxd",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    (tmp_path / "daemon" / "mlxd" / "daemon" / "version.py").write_text(OTHER)
    places = [tmp_path / "daemon", *(ROOT / part for part in ("protocol", "client", "launchd"))]
    home = tmp_path / "home"
    home.mkdir()
    with running_daemon(home, PYTHONPATH=os.pathsep.join(map(str, places))) as daemon:
        templates = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "templates"
        templates.mkdir(parents=True)
        (templates / "plain.toml").write_text('prompt = "{input}"\n')
        done = subprocess.run(
            [sys.executable, "-m", "mlxd.client.cli", "ask", *options, "Count from 3 to 5."],
            env={**daemon.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert done.stdout == "3, 4, 5\n"
    advice = [line for line in done.stderr.splitlines() if "9.9.9" in line]
    assert len(advice) == 1
    assert advice[0].endswith("mlxd restart")
