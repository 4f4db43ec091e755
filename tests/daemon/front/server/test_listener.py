"""The socket file, its folder and its lock."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mlxd.daemon.front.server.listener import (
    AlreadyRunning,
    open_listener,
    peer_allowed,
    uid_of,
)
from mlxd.protocol.paths import Paths


@pytest.fixture
def adopted(own_paths: Paths) -> Iterator[socket.socket]:
    """A socket created by a service manager."""
    own_paths.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(own_paths.socket))
        sock.listen()
        yield sock


def test_the_listener_creates_and_removes_the_socket(own_paths: Paths) -> None:
    listener = open_listener(own_paths)
    assert own_paths.socket.stat().st_mode & 0o777 == 0o600
    assert own_paths.socket.parent.stat().st_mode & 0o777 == 0o700
    listener.close()
    assert not own_paths.socket.exists()


def test_the_temporary_name_of_the_socket_is_removed(own_paths: Paths) -> None:
    listener = open_listener(own_paths)
    names = {path.name for path in own_paths.socket.parent.iterdir()}
    listener.close()
    assert names == {own_paths.socket.name, own_paths.lock_file.name}


def test_close_does_not_remove_a_file_that_replaced_the_socket(own_paths: Paths) -> None:
    listener = open_listener(own_paths)
    own_paths.socket.unlink()
    own_paths.socket.write_text("of another")
    listener.close()
    assert own_paths.socket.exists()


def test_an_adopted_socket_is_never_removed(own_paths: Paths, adopted: socket.socket) -> None:
    open_listener(own_paths, [adopted]).close()
    assert own_paths.socket.exists()


def test_a_socket_that_answers_without_a_lock_is_not_replaced(
    own_paths: Paths, adopted: socket.socket
) -> None:
    with pytest.raises(AlreadyRunning):
        open_listener(own_paths)
    assert own_paths.socket.exists()


def test_a_dead_socket_is_replaced(own_paths: Paths) -> None:
    own_paths.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(own_paths.socket))
    open_listener(own_paths).close()


def test_only_the_owner_may_connect_as_the_kernel_reports_it() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert uid_of(one) == os.geteuid()
    assert peer_allowed(os.geteuid(), adopted=False)
    assert not peer_allowed(os.geteuid() + 1, adopted=True)
    assert not peer_allowed(None, adopted=True)
