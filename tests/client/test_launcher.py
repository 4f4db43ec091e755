"""`bin/mlx` finds the fast path, however mlxd is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def as_wheel(packages: Path) -> None:
    (packages / "mlxd").mkdir()
    (packages / "mlxd/client").symlink_to(ROOT / "client/mlxd/client")
    (packages / "mlxd/safesocket").symlink_to(ROOT / "protocol/mlxd/safesocket")


def as_checkout(packages: Path) -> None:
    roots = [str(ROOT / part) for part in ("protocol", "client", "daemon", "launchd")]
    (packages / "_mlxd.pth").write_text("\n".join(roots))


@pytest.mark.parametrize("lay_out", [as_wheel, as_checkout])
def test_a_request_is_sent_without_the_full_program(
    lay_out: Callable[[Path], None], tmp_path: Path
) -> None:
    packages = tmp_path / "lib/python{}.{}/site-packages".format(*sys.version_info)
    packages.mkdir(parents=True)
    lay_out(packages)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(Path(sys.executable).resolve())
    shutil.copy(ROOT / "client/bin/mlx", tmp_path / "bin/mlx")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        listener.settimeout(30)
        environ = {**os.environ, "MLXD_SOCKET": str(tmp_path / "s"), "MLXD_AUTOSTART": "0"}
        program = subprocess.Popen(
            [tmp_path / "bin/mlx", "ask", "hi"], env=environ, stdin=subprocess.DEVNULL
        )
        with program, listener.accept()[0] as connection:
            assert b"chat" in connection.recv(1000)
            command = psutil.Process(program.pid).cmdline()
            program.kill()
    assert command[1:] == ["-I", "-S", str(tmp_path / "bin/mlx"), "ask", "hi"]
