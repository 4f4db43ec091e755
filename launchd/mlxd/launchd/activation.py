"""Receives sockets from launchd or systemd, and reports readiness to systemd."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping

from mlxd.launchd import LABEL, SOCKET_NAME
from mlxd.protocol.errors import MlxdError

SYSTEMD_FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
NO_SUCH_PROCESS = 3
_LAUNCHD_REASONS = {
    2: f"its property list has no socket named {SOCKET_NAME}",
    NO_SUCH_PROCESS: "the process was not started by launchd",
    37: "the socket was already handed over",
}
"""Results of launch_activate_socket(3): ENOENT, ESRCH and EALREADY of macOS."""

Activate = Callable[[str], list[int]]
"""Maps a socket's name to descriptors. Raises OSError with launchd's error code."""


class ActivationError(MlxdError):
    """The service manager announced a socket that cannot be used."""

    code = "activation_failed"
    default_hint = "Install the service again: mlxd install"


def adopt_sockets(
    environ: MutableMapping[str, str],
    *,
    pid: int | None = None,
    activate: Activate | None = None,
) -> list[socket.socket]:
    """Return the listening sockets that a service manager passes, or an empty list.

    Removes their variables from `environ`, so that child processes do not use them.

    Raises:
        ActivationError: a socket was announced but cannot be used.
    """
    descriptors = launchd_descriptors(environ, activate or launch_activate_socket)
    if not descriptors:
        descriptors = systemd_descriptors(environ, os.getpid() if pid is None else pid)
    return [_listening(descriptor) for descriptor in descriptors]


def launchd_descriptors(
    environ: MutableMapping[str, str], activate: Activate, label: str = LABEL
) -> list[int]:
    """Return launchd's descriptors, or an empty list if launchd did not start this process.

    Removes the variable: launchd hands a socket over once, so neither child processes nor this
    process after an upgrade may ask again.
    """
    if environ.get("XPC_SERVICE_NAME") != label:  # "0" in a shell of a desktop session
        return []
    del environ["XPC_SERVICE_NAME"]
    try:
        return activate(SOCKET_NAME)
    except OSError as exc:
        reason = _LAUNCHD_REASONS.get(exc.errno or 0, f"error {exc.errno}")
        raise ActivationError(f"launchd passes no socket: {reason}.") from exc


def launch_activate_socket(name: str) -> list[int]:
    """Return the descriptors of the agent's socket `name`.

    Raises:
        OSError: with launchd's own error code as errno.
    """
    library = ctypes.CDLL(None)
    function = getattr(library, "launch_activate_socket", None)
    if function is None:
        raise OSError(NO_SUCH_PROCESS, "this system has no launchd")
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.POINTER(ctypes.c_int)),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    library.free.argtypes = [ctypes.c_void_p]
    array, count = ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
    # The error code is the result itself. errno is not set.
    code = function(name.encode(), ctypes.byref(array), ctypes.byref(count))
    if code:
        raise OSError(code, f"launch_activate_socket({name})")
    descriptors = [array[index] for index in range(count.value)]
    library.free(array)
    return descriptors


def systemd_descriptors(environ: MutableMapping[str, str], pid: int) -> list[int]:
    """Return systemd's descriptors for this process, and remove their variables.

    If some have the name that mlxd.socket gives, the others are closed: an extended unit may pass
    more. If none has it, as in hand-written units, all are used.
    """
    wanted_pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if wanted_pid != str(pid) or not count.isdecimal():
        return []
    passed = range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + int(count))
    ours = [number for number, name in zip(passed, names, strict=False) if name == SOCKET_NAME]
    for number in passed if ours else ():
        if number not in ours:
            os.close(number)
    return ours or [*passed]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        taken = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ActivationError(f"Descriptor {descriptor} is not a socket: {exc.strerror}.") from exc
    if taken.family != socket.AF_UNIX or not _accepts(taken):
        taken.detach()
        raise ActivationError(f"Descriptor {descriptor} is not a listening Unix stream socket.")
    return taken


def _accepts(taken: socket.socket) -> bool:
    if taken.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return True  # some releases of macOS do not support it for Unix sockets


def notify(state: str, environ: Mapping[str, str]) -> bool:
    """Send a state such as READY=1 to systemd. Return False if systemd does not listen."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(address)
            sender.sendall(state.encode())
        except OSError:
            return False  # systemd has ended, which does not matter here
    return True
