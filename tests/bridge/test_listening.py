"""The sockets: both families at one port, passed by a service manager, or a Unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mlxd.http import keys, listening, presence
from mlxd.http.options import Options
from mlxd.protocol.errors import PermissionDenied


def closed(sockets: list[socket.socket]) -> list[socket.socket]:
    for one in sockets:
        one.close()
    return sockets


def test_both_families_listen_at_the_same_port() -> None:
    sockets = listening.open_sockets(Options(port=0))
    ports = {one.getsockname()[1] for one in sockets}
    assert len(ports) == 1
    assert listening.are_loopback(sockets)
    assert listening.urls(sockets)[0] == f"http://127.0.0.1:{ports.pop()}"
    closed(sockets)


def test_a_free_port_is_one_that_is_free_in_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []

    def tcp(_address: str, port: int) -> socket.socket:
        if port and not ports:
            ports.append(port)
            raise listening.CannotListen("in use")
        return socket.create_server(("127.0.0.1", 0))

    monkeypatch.setattr("mlxd.http.listening._tcp", tcp)
    assert len(closed(listening.open_sockets(Options(port=0)))) == 2
    assert len(ports) == 1


def test_a_port_in_use_is_an_error_with_the_next_step() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(listening.CannotListen) as caught:
            listening.open_sockets(Options(port=other.getsockname()[1]))
        assert "--port" in caught.value.hint


def test_sockets_of_launchd_are_used_and_handed_over_once() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    address = given.getsockname()
    environ = {"XPC_SERVICE_NAME": "mlxd.http"}
    found = listening.adopted(environ, lambda name: [given.detach()] if name == "Listener" else [])
    assert [one.getsockname() for one in found] == [address]
    assert listening.adopted(environ, lambda _: [1]) == []
    closed(found)


def test_a_socket_of_the_network_is_not_loopback() -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide:
        assert not listening.are_loopback([wide])


def test_a_unix_socket_replaces_a_stale_one_but_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    closed(listening.open_sockets(Options(port=0, unix_socket=path)))
    sockets = listening.open_sockets(Options(port=0, unix_socket=path))
    with pytest.raises(listening.CannotListen):
        listening.open_sockets(Options(port=0, unix_socket=path))
    closed(sockets)
    precious = tmp_path / "precious"
    precious.write_text("x")
    with pytest.raises(PermissionDenied):
        listening.open_sockets(Options(port=0, unix_socket=precious))
    assert precious.read_text() == "x"


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "http.key"
    key = keys.load_or_create(path)
    assert keys.load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*path.parent.iterdir()] == [path]
    path.chmod(0o644)
    with pytest.raises(PermissionDenied):
        keys.load_or_create(path)


def test_the_first_bridge_announces_itself(tmp_path: Path) -> None:
    path = tmp_path / "http.lock"
    first = presence.announce(path, "http://a")
    assert first is not None
    assert presence.announce(path, "http://b") is None
    assert path.read_text() == "http://a\n"
    os.close(first)
    second = presence.announce(path, "http://b")
    assert second is not None
    os.close(second)
