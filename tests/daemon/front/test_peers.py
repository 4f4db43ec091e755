"""Callers of other users, on prepared paths, and such that never come to the point."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support import needs
from support.daemon_process import Daemon, Peer, daemon_with_fake_engine, user
from support.places import mlxd, own_environ

NOBODY = 65534


def as_nobody(path: str) -> subprocess.CompletedProcess[bytes]:
    """Connect and ask as another user."""
    return subprocess.run(
        ["nc", "-U", path],
        input=b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
        capture_output=True,
        timeout=20,
        user=NOBODY,
        check=False,
    )


@needs.root_only
def test_another_user_cannot_even_connect() -> None:
    with daemon_with_fake_engine() as daemon:
        daemon.folder.chmod(0o755)
        done = as_nobody(daemon.socket_path)
    assert done.stdout == b""
    assert b"Permission denied" in done.stderr


@needs.root_only
def test_other_users_are_refused_by_the_kernels_word() -> None:
    with daemon_with_fake_engine() as daemon:
        opened(daemon)
        assert b"permission_denied" in as_nobody(daemon.socket_path).stdout
        daemon.wait_event("refused")
        assert [one["uid"] for one in daemon.log_lines() if one["event"] == "refused"] == [NOBODY]


def opened(daemon: Daemon) -> None:
    """Undo what keeps others from the socket, as a careless user might."""
    for path in (daemon.folder, Path(daemon.socket_path).parent):
        path.chmod(0o755)
    Path(daemon.socket_path).chmod(0o666)


@needs.root_only
def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    assert f"belongs to user {NOBODY}" in refused(folder / "s")


def test_a_link_or_file_in_place_of_the_socket_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "file").write_text("precious")
    assert "is not a socket" in refused(folder / "link")
    assert "is not a socket" in refused(folder / "file")
    assert (folder / "file").read_text() == "precious"


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (folder / "s.lock").symlink_to(precious)
    refused(folder / "s")
    assert precious.read_text() == "precious"


def refused(path: Path) -> str:
    """Run a daemon on a socket that it must not take; returns what it said."""
    done = mlxd({**own_environ(path.parents[1]), "MLXD_SOCKET": str(path)}, "run")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_byte_now_and_then_does_not_keep_a_message_alive() -> None:
    settings = {"MLXD_MESSAGE_TIMEOUT_S": "0.5"}
    with daemon_with_fake_engine(**settings) as daemon, daemon.peer() as slow:
        slow.sock.settimeout(0.05)
        slow.raw(b"\x94\x00\x01\xa4chat\x91\x81\xa1x\xdb\x00\x10\x00\x00")
        while still_listened_to(slow):  # for ever, were it not for the daemon
            assert daemon.ask("ping") == {"pong": True}
        assert daemon.ask("chat", messages=user("2 tokens"))["choices"]


def still_listened_to(peer: Peer) -> bool:
    """Send one byte more, and see whether the daemon has hung up by then."""
    try:
        peer.raw(b"x")
        return peer.sock.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_half_sent_messages_are_bounded_all_together() -> None:
    limit = 1 << 20
    settings = {"MLXD_MAX_MESSAGE_BYTES": str(limit)}
    with daemon_with_fake_engine(**settings) as daemon:
        small = half_sent(daemon, 1000)
        large = [half_sent(daemon, limit - 5000) for _ in range(12)]
        daemon.wait_event("too much incomplete data")
        # The small one is not what takes the room: it is still listened to.
        small.raw(b"x" * (limit - 2000))
        assert small.answer(1)["error"]["code"] == "invalid_params"
        for peer in (small, *large):
            peer.sock.close()


def half_sent(daemon: Daemon, count: int) -> Peer:
    """Send the first bytes of a message whose string is nearly as long as a message may be."""
    peer = daemon.peer()
    total = (1 << 20) - 1000
    peer.raw(b"\x94\x00\x01\xa4chat\x91\x81\xa1x\xdb" + total.to_bytes(4, "big") + b"x" * count)
    return peer
