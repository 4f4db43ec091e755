"""Opens the listening sockets: TCP on the loopback addresses, and optionally a Unix socket."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path

from mlxd.http.options import Options
from mlxd.launchd import HTTP_LABEL, activation
from mlxd.protocol.errors import MlxdError, PermissionDenied

BACKLOG = 128
FREE_PORT_TRIES = 16
_NO_SUCH_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}


class CannotListen(MlxdError):
    """An address cannot be used, usually because another program uses it."""

    code = "cannot_listen"


def adopted(
    environ: MutableMapping[str, str],
    activate: activation.Activate = activation.launch_activate_socket,
) -> list[socket.socket]:
    """Return the sockets that launchd or systemd passes, or an empty list.

    Raises:
        CannotListen: a descriptor is not a socket.
    """
    descriptors = activation.launchd_descriptors(environ, activate, HTTP_LABEL)
    if not descriptors:
        descriptors = activation.systemd_descriptors(environ, os.getpid())
    found = []
    for descriptor in descriptors:
        try:
            os.set_inheritable(descriptor, False)
            taken = socket.socket(fileno=descriptor)
        except OSError as exc:
            raise CannotListen(
                f"Descriptor {descriptor} is not a socket: {exc.strerror}.",
                hint="Install the service again: mlxd install",
            ) from exc
        taken.setblocking(False)
        found.append(taken)
    return found


def are_loopback(sockets: list[socket.socket]) -> bool:
    """Return whether only programs of this machine can connect."""
    return all(
        one.family == socket.AF_UNIX or ipaddress.ip_address(one.getsockname()[0]).is_loopback
        for one in sockets
    )


def open_sockets(options: Options) -> list[socket.socket]:
    """Listen at every address. IPv6 is left out where the system does not have it.

    Raises:
        CannotListen: an address is in use, or does not exist.
    """
    # A port that is free in one family may be in use in the other.
    for _ in range(FREE_PORT_TRIES if options.port == 0 else 0):
        with contextlib.suppress(CannotListen):
            return _open_all(options)
    return _open_all(options)


def _open_all(options: Options) -> list[socket.socket]:
    found: list[socket.socket] = []
    port = options.port
    try:
        for address in options.addresses:
            opened = _tcp(address, port)
            if opened is not None:
                found.append(opened)
                port = opened.getsockname()[1]  # with port 0, the same for all addresses
        if options.unix_socket is not None:
            found.append(_unix(options.unix_socket))
    except BaseException:
        for one in found:
            one.close()
        raise
    if not found:
        raise CannotListen("None of the addresses exists on this machine.", hint="Check --listen.")
    return found


def _tcp(address: str, port: int) -> socket.socket | None:
    version = ipaddress.ip_address(address).version
    try:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
    except OSError:
        return None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as exc:
        made.close()
        if version == 6 and exc.errno in _NO_SUCH_FAMILY:
            return None
        raise CannotListen(
            f"Cannot listen at {address}, port {port}: {exc.strerror}.",
            hint="Stop the other program, or use another port: mlxd http --port N",
        ) from exc
    return made


def _unix(path: Path) -> socket.socket:
    """Bind under another name and rename, so that the socket never has other permissions."""
    _remove_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    made = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        made.bind(str(temporary))
        os.chmod(temporary, 0o600)
        made.listen(BACKLOG)
        made.setblocking(False)
        os.rename(temporary, path)
    except OSError as exc:
        made.close()
        raise CannotListen(
            f"Cannot listen at {path}: {exc.strerror or exc}.", hint="Use another --unix-socket."
        ) from exc
    return made


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PermissionDenied(f"{path} exists and is not a socket.", hint=f"Move it: {path}")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
        else:
            raise CannotListen(
                f"Another program listens at {path}.", hint="Use another --unix-socket."
            )


def urls(sockets: list[socket.socket]) -> list[str]:
    """Return the addresses for messages to the user."""
    found = []
    for one in sockets:
        name = one.getsockname()
        if one.family == socket.AF_UNIX:
            found.append(f"unix:{name}")
        else:
            host = f"[{name[0]}]" if one.family == socket.AF_INET6 else name[0]
            found.append(f"http://{host}:{name[1]}")
    return found
