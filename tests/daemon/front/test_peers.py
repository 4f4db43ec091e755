"""Connections of other users, hostile socket paths, and messages that are never complete."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import needs
from support.daemon_process import Daemon, Peer, daemon_with_fake_engine, user
from support.places import mlxd, own_environ

NOBODY = 65534


def as_nobody(path: str) -> subprocess.CompletedProcess[bytes]:
    """Connect and send a ping as another user."""
    return subprocess.run(
        ["nc", "-U", path],
        input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        capture_output=True,
        timeout=20,
        user=NOBODY,
        check=False,
    )


@needs.root_only
def test_another_user_cannot_connect() -> None:
    with daemon_with_fake_engine() as daemon:
        daemon.folder.chmod(0o755)
        done = as_nobody(daemon.socket_path)
    assert done.stdout == b""
    assert b"Permission denied" in done.stderr


@needs.root_only
def test_connections_of_other_users_are_refused_by_uid() -> None:
    with daemon_with_fake_engine() as daemon:
        open_to_others(daemon)
        assert b"permission_denied" in as_nobody(daemon.socket_path).stdout
        daemon.wait_event("refused")
        assert [one["uid"] for one in daemon.log_lines() if one["event"] == "refused"] == [NOBODY]


def open_to_others(daemon: Daemon) -> None:
    """Make the socket accessible to other users, as a careless user might."""
    for path in (daemon.folder, Path(daemon.socket_path).parent):
        path.chmod(0o755)
    Path(daemon.socket_path).chmod(0o666)


@needs.root_only
def test_a_socket_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    assert f"belongs to user {NOBODY}" in run_refused(folder / "s")


def test_a_symlink_or_file_in_place_of_the_socket_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "file").write_text("precious")
    assert "is not a socket" in run_refused(folder / "link")
    assert "is not a socket" in run_refused(folder / "file")
    assert (folder / "file").read_text() == "precious"


def test_a_symlink_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (folder / "s.lock").symlink_to(precious)
    run_refused(folder / "s")
    assert precious.read_text() == "precious"


def run_refused(path: Path) -> str:
    """Run a daemon on a socket path that it must refuse; return its stderr."""
    done = mlxd({**own_environ(path.parents[1]), "MLXD_SOCKET": str(path)}, "run")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_single_bytes_do_not_extend_the_message_timeout() -> None:
    settings = {"MLXD_MESSAGE_TIMEOUT_S": "0.5"}
    with daemon_with_fake_engine(**settings) as daemon, daemon.peer() as slow:
        slow.sock.settimeout(0.05)
        slow.raw(b"\x94\x00\x01\xa4chat\x91\x81\xa1x\xdb\x00\x10\x00\x00")
        while still_listened_to(slow):  # until the daemon disconnects
            assert daemon.ask("ping") == {"pong": True}
        assert daemon.ask("chat", messages=user("2 tokens"))["choices"]


def still_listened_to(peer: Peer) -> bool:
    """Send one more byte; return whether the daemon still keeps the connection open."""
    try:
        peer.raw(b"x")
        return peer.sock.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_the_total_size_of_incomplete_messages_is_limited() -> None:
    limit = 1 << 20
    settings = {"MLXD_MAX_MESSAGE_BYTES": str(limit)}
    with daemon_with_fake_engine(**settings) as daemon:
        small = half_sent(daemon, 1000)
        large = [half_sent(daemon, limit - 5000) for _ in range(12)]
        daemon.wait_event("too much incomplete data")
        # The small message does not take up the memory, so its connection stays open.
        small.raw(b"x" * (limit - 2000))
        assert small.answer(1)["error"]["code"] == "invalid_params"
        for peer in (small, *large):
            peer.sock.close()


def half_sent(daemon: Daemon, count: int) -> Peer:
    """Send the first bytes of a message that is nearly as long as allowed."""
    peer = daemon.peer()
    total = (1 << 20) - 1000
    peer.raw(b"\x94\x00\x01\xa4chat\x91\x81\xa1x\xdb" + total.to_bytes(4, "big") + b"x" * count)
    return peer
