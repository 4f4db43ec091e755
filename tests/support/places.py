"""An isolated environment for one test. It does not use the real home directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from support.leftovers import marked

FAKE_DAEMON = [sys.executable, str(Path(__file__).with_name("fake_daemon.py"))]
MLXD = [sys.executable, "-m", "mlxd.daemon.cli"]


def own_environ(folder: Path) -> dict[str, str]:
    """Return an environment whose folders are all below `folder`."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "xdg-config"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "MLXD_SOCKET": str(folder / "mlxd-run" / "s"),
        "MLXD_CONFIG_DIR": str(folder / "config"),
        "MLXD_STATE_DIR": str(folder / "state"),
        "MLXD_DATA_DIR": str(folder / "data"),
        "MLXD_CACHE_DIR": str(folder / "cache"),
        "MLXD_LOG_DIR": str(folder / "log"),
        "TMPDIR": str(compiled()),
    }
    return marked(environ)


def compiled() -> Path:
    """Return the folder in which all engines of the tests share compiled kernels."""
    folder = Path(tempfile.gettempdir()) / f"mlxd-tests-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def mlxd(environ: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command and return the completed process."""
    return subprocess.run(
        [*MLXD, *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
