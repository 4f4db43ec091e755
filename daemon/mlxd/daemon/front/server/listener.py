"""The listening socket. Ensures one daemon per socket, and access for its owner only."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from mlxd.daemon import home, lock
from mlxd.protocol.errors import MlxdError, PermissionDenied
from mlxd.protocol.paths import Paths
from mlxd.safesocket.folder import prepare_folder
from mlxd.safesocket.peercred import peer_uid

BACKLOG = 512  # macOS limits it to 128
ACCEPT_BURST = 8
"""Connections that asyncio accepts at once. Each takes a descriptor before it can be refused."""
PROBE_TIMEOUT_S = 1.0


class AlreadyRunning(MlxdError):
    """Another daemon owns the socket. `data.pid` is its process id, if known."""

    code = "already_running"
    exit_code = 1
    default_hint = "Use it, or restart it: mlxd restart"


class SocketLost(MlxdError):
    """The socket file of launchd or systemd was removed."""

    code = "socket_lost"
    default_hint = "Restore it: mlxd start"


@dataclass(frozen=True, slots=True)
class Listener:
    """The listening sockets. `inode` is the inode of the socket file, or None if unknown.

    If `adopted`, sockets and file belong to launchd or systemd. `home_descriptor` is the lock of
    the state folder (see `mlxd.daemon.home`).
    """

    sockets: tuple[socket.socket, ...]
    path: Path
    lock_descriptor: int
    inode: int | None
    adopted: bool = False
    home_descriptor: int | None = None

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still the one of this daemon."""
        for sock in self.sockets:
            sock.close()
        if not self.adopted and self.inode == _inode(self.path):
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self.lock_descriptor)
        if self.home_descriptor is not None:
            os.close(self.home_descriptor)


def open_listener(paths: Paths, adopted: list[socket.socket] | None = None) -> Listener:
    """Listen at `paths.socket`, or use the sockets of launchd or systemd.

    Raises:
        AlreadyRunning: another daemon holds the lock or answers on the socket.
        RunsElsewhere: another daemon uses the same state folder.
        NoSocketFolder: the socket's folder does not exist.
        PermissionDenied: other users can write to the socket's folder.
    """
    path = paths.socket
    prepare_folder(paths)
    descriptor = _lock(paths.lock_file)
    held: int | None = None
    try:
        held = home.take(paths)
        if not adopted:
            return replace(_listen(path, descriptor), home_descriptor=held)
        for sock in adopted:
            sock.setblocking(False)
        sockets = tuple(adopted)
        return Listener(sockets, path, descriptor, _inode(path), True, held)
    except BaseException:
        os.close(descriptor)
        if held is not None:
            os.close(held)
        raise


def _listen(path: Path, lock_descriptor: int) -> Listener:
    _remove_stale(path)
    sock = _bind(path)
    return Listener((sock,), path, lock_descriptor, _inode(path))


def restored(listener: Listener, paths: Paths) -> Listener:
    """Return `listener` if its files exist, otherwise a new listener at the same path.

    Logging out removes the runtime folder, and cleaners of /tmp remove sockets. Without its files,
    a daemon could not be reached, and a second one would start beside it. The caller must close
    the replaced `listener.sockets`, and its lock if the new one differs.

    Raises:
        AlreadyRunning: another daemon now uses the path.
        SocketLost: only launchd or systemd can create their socket again.
        OSError, PermissionDenied, NoSocketFolder: the files cannot be created now.
    """
    path, descriptor = paths.socket, listener.lock_descriptor
    has_socket = listener.inode is None or _inode(path) == listener.inode
    has_lock = _inode(paths.lock_file) == os.fstat(descriptor).st_ino
    if has_socket and has_lock:
        return listener
    if listener.adopted and not has_socket:
        raise SocketLost(f"The socket {path} was removed.")
    # Not a typing error in a path, which `prepare_folder` suspects: the folder existed before.
    path.parent.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    prepare_folder(paths)
    if not has_lock:
        descriptor = _lock(paths.lock_file)
    try:
        if has_socket:
            return replace(listener, lock_descriptor=descriptor)
        made = _listen(path, descriptor)
        return replace(made, home_descriptor=listener.home_descriptor)
    except BaseException:
        if not has_lock:
            os.close(descriptor)
        raise


def _inode(path: Path) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _lock(path: Path) -> int:
    descriptor = lock.take(path)
    if descriptor is None:
        raise _already_running(lock.holder(path))
    return descriptor


def _already_running(pid: int | None) -> AlreadyRunning:
    who = f" as process {pid}" if pid else ""
    return AlreadyRunning(f"mlxd is already running{who}.", data={"pid": pid})


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise PermissionDenied(f"{path} exists but is not a socket.", hint=f"Move it away: {path}")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError, TimeoutError):
            pass
        else:
            raise _already_running(None)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _bind(path: Path) -> socket.socket:
    """Bind under another name and rename it, so that no client connects before it is ready."""
    temporary = path.with_name(f".{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        sock.bind(str(temporary))
        os.chmod(temporary, 0o600)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return sock


def uid_of(sock: socket.socket) -> int | None:
    """Return the uid of the peer as verified by the kernel, or None if it is unknown."""
    try:
        return peer_uid(sock)
    except OSError:
        return None


def peer_allowed(uid: int | None, *, adopted: bool) -> bool:
    """Return whether a user may connect. Only the owner may.

    Under launchd, root is accepted too, because launchd connects on behalf of others while it
    starts the daemon.
    """
    return uid == os.geteuid() or (adopted and uid == 0)
