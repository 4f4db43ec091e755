"""Connecting: retries while the daemon is busy, and a check of who listens."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mlxd.protocol.errors import DaemonUnreachable, PermissionDenied, RequestTimeout
from mlxd.safesocket.connect import REFUSED_TRIES, attempts, check_listener, connect
from mlxd.safesocket.peercred import is_trusted_listener, peer_uid


def test_a_listener_is_connected_at_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        with connect(tmp_path / "s", 5.0) as connection:
            assert connection.getpeername() == str(tmp_path / "s")
            assert peer_uid(connection) == os.geteuid()


def test_a_socket_without_a_listener_is_tried_several_times(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        tries = attempts(tmp_path / "s", None)
        assert [next(tries) for _ in range(REFUSED_TRIES - 1)] == [None] * (REFUSED_TRIES - 1)
        with pytest.raises(DaemonUnreachable, match="No daemon is running"):
            next(tries)


def test_a_missing_socket_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        connect(tmp_path / "s", 5.0)
    assert caught.value.message == f"No daemon is running at {tmp_path / 's'}."


def test_a_listener_that_accepts_nothing_is_given_up_after_the_limit(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with (
            connect(tmp_path / "s", 5.0),
            pytest.raises(RequestTimeout, match="did not accept the connection within 0 s"),
        ):
            connect(tmp_path / "s", 0.0)


def test_only_the_own_user_and_root_are_trusted_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_trusted_listener(os.geteuid())
    assert is_trusted_listener(0)
    assert not is_trusted_listener(os.geteuid() + 1)
    one, other = socket.socketpair()
    with one, other:
        check_listener(one, "s")
        monkeypatch.setattr("mlxd.safesocket.connect.peer_uid", lambda _: os.geteuid() + 1)
        with pytest.raises(PermissionDenied, match=f"user {os.geteuid() + 1} listens at s"):
            check_listener(one, "s")
