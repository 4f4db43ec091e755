"""Sockets from launchd (an injected function) and systemd (the real program), and readiness."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlxd.launchd import LABEL
from mlxd.launchd.activation import (
    ActivationError,
    adopt_sockets,
    launchd_descriptors,
    notify,
    systemd_descriptors,
)
from support import needs
from support.libxpc import build_libxpc


def never(_name: str) -> list[int]:
    raise AssertionError("launchd must not be asked")


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    return listener


def test_no_sockets_are_adopted_without_a_service_manager() -> None:
    assert adopt_sockets({}, activate=never) == []
    assert adopt_sockets({"XPC_SERVICE_NAME": "0"}, activate=never) == []


def test_the_socket_of_launchd_is_adopted(listener: socket.socket) -> None:
    asked = []

    def activate(name: str) -> list[int]:
        asked.append(name)
        return [listener.detach()]

    environ = {"XPC_SERVICE_NAME": LABEL}
    (adopted,) = adopt_sockets(environ, activate=activate)
    with adopted:
        assert asked == ["Listener"]
        assert environ == {}, "child processes must not adopt the socket again"
        assert not os.get_inheritable(adopted.fileno())


@pytest.mark.parametrize(
    ("code", "reason"),
    [(2, "no socket named"), (3, "not started by launchd"), (37, "already"), (99, "error 99")],
)
def test_an_error_of_launchd_is_reported_with_its_reason(code: int, reason: str) -> None:
    def activate(_name: str) -> list[int]:
        raise OSError(code, "refused")

    with pytest.raises(ActivationError, match=reason):
        launchd_descriptors({"XPC_SERVICE_NAME": LABEL}, activate)


def test_systemd_sockets_start_at_descriptor_3_and_variables_are_removed() -> None:
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"}
    environ["LISTEN_PIDFDID"] = "1"
    assert systemd_descriptors(environ, 7) == [3, 4]
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {"LISTEN_PID": "8", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "7"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "-1"},
        {"LISTEN_PID": "7", "LISTEN_FDS": "many"},
    ],
)
def test_foreign_or_malformed_listen_variables_are_ignored(environ: dict[str, str]) -> None:
    assert systemd_descriptors(environ, 7) == []
    assert environ == {}


def test_a_descriptor_that_does_not_listen_is_refused() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(ActivationError, match="not a listening"):
        adopt_sockets({"XPC_SERVICE_NAME": LABEL}, activate=lambda _name: [left.fileno()])


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    with open(os.devnull) as file, pytest.raises(ActivationError, match="not a socket"):
        adopt_sockets({"XPC_SERVICE_NAME": LABEL}, activate=lambda _name: [file.fileno()])


@pytest.mark.parametrize("prefix", ["/", pytest.param("@", marks=needs.linux_only)])
def test_notify_sends_one_datagram(tmp_path: Path, prefix: str) -> None:
    address = str(tmp_path / "n") if prefix == "/" else f"@mlxd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if prefix == "@" else address)
        assert notify("READY=1", {"NOTIFY_SOCKET": address})
        assert receiver.recv(64) == b"READY=1"


def test_notify_without_a_receiver_is_no_error(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "gone")})


CHILD = """
import os
from mlxd.launchd.activation import adopt_sockets
*others, listener = adopt_sockets(os.environ)
assert not [name for name in os.environ if name.startswith("LISTEN_")]
kept = [number for number in ("3", "4") if os.path.exists("/proc/self/fd/" + number)]
connection, _ = listener.accept()
connection.sendall(connection.recv(100).upper() + " ".join(["", *kept]).encode())
"""


@pytest.mark.parametrize(
    ("names", "open_ones"),
    [
        ("", b" 3 4"),  # a unit without names: all sockets are adopted
        ("somebody-s:Listener", b" 4"),  # mlxd.socket, to which the user added a socket
        ("one:other", b" 3 4"),
    ],
)
def test_sockets_of_the_real_systemd_socket_activate_are_adopted(
    tmp_path: Path, names: str, open_ones: bytes
) -> None:
    address = tmp_path / "s"
    command = [
        needs.program("systemd-socket-activate"),
        f"--setenv=PYTHONPATH={':'.join(sys.path)}",
        *([f"--fdname={names}"] if names else []),
        *("-l", str(tmp_path / "other"), "-l", str(address)),
        *(sys.executable, "-c", CHILD),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for _ in range(2):  # one line for each socket that is ready
            assert "Listening" in process.stderr.readline()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(30)
            caller.connect(str(address))
            caller.sendall(b"hello")
            with caller.makefile("rb") as answer:
                assert answer.read() == b"HELLO" + open_ones
        process.stderr.read()
        assert process.wait(30) == 0


ADOPT = """
import os
from mlxd.launchd.activation import ActivationError, adopt_sockets
try:
    print([adopted.fileno() for adopted in adopt_sockets(os.environ)])
except ActivationError as error:
    print(error.message)
"""


@pytest.fixture(scope="module")
def libxpc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libxpc(tmp_path_factory.mktemp("xpc"))


def adopt(libxpc: Path | None, *descriptors: int) -> str:
    environ = {"PYTHONPATH": ":".join(sys.path), "XPC_SERVICE_NAME": LABEL}
    if libxpc is not None:
        environ["LD_PRELOAD"] = str(libxpc)
    if descriptors:
        environ["FAKE_XPC_FD"] = str(descriptors[0])
    done = subprocess.run(
        [sys.executable, "-c", ADOPT],
        env=environ,
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_launch_activate_socket_is_called_with_its_c_signature(
    libxpc: Path, listener: socket.socket
) -> None:
    with listener:
        assert adopt(libxpc, listener.fileno()) == f"[{listener.fileno()}]"


def test_an_error_code_of_launch_activate_socket_is_reported(libxpc: Path) -> None:
    assert "already handed over" in adopt(libxpc)


@needs.linux_only
def test_activation_without_launch_activate_socket_is_an_error() -> None:
    assert "not started by launchd" in adopt(None)
