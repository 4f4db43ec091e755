"""Clients send nothing to a program of another user that listens at the daemon's socket."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.client.aio import AsyncClient
from mlxd.client.sync import Client
from mlxd.protocol.errors import PermissionDenied
from support import needs
from support.commands import BIN
from support.places import own_environ

NOBODY = 65534

pytestmark = needs.root_only


class Impostor:
    """A listener of another user that records what it receives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "s"
        self.process = subprocess.Popen(
            ["nc", "-k", "-l", "-U", self.path], stdout=subprocess.PIPE, user=NOBODY
        )
        with socket.socket(socket.AF_UNIX) as probe:
            while probe.connect_ex(str(self.path)):
                assert self.process.poll() is None

    def heard(self) -> bytes:
        """Stop the listener; return everything it received."""
        self.end()
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    with tempfile.TemporaryDirectory(prefix="mlxd-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        running = Impostor(folder)
        with running.process:
            yield running
            running.end()


@pytest.mark.parametrize("way", [[], ["--json"], ["--timeout", "20"]])
def test_mlx_sends_nothing_to_a_socket_of_another_user(
    impostor: Impostor, tmp_path: Path, way: list[str]
) -> None:
    environ = {**own_environ(tmp_path), "MLXD_SOCKET": str(impostor.path)}
    done = subprocess.run(
        [BIN / "mlx", "ask", *way, "a secret"],
        env=environ,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6
    assert f"A program of user {NOBODY} listens" in done.stderr
    assert "MLXD_SOCKET" in done.stderr
    assert done.stdout == ""
    assert impostor.heard() == b""


def test_the_python_clients_send_nothing_to_a_socket_of_another_user(impostor: Impostor) -> None:
    with pytest.raises(PermissionDenied):
        Client(impostor.path)
    with pytest.raises(PermissionDenied):
        asyncio.run(AsyncClient.connect(impostor.path))
    assert impostor.heard() == b""
