"""The folder of the daemon's socket. Only its owner may write to it."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from mlxd.protocol.errors import InvalidRequest, PermissionDenied
from mlxd.protocol.paths import APP_NAME, Paths

OTHERS_MAY_WRITE = 0o022
OTHERS_MAY_READ = 0o055
OWN_FOLDER_HINT = "Set MLXD_SOCKET to a path in a folder of your own."
"""Never chmod: other programs may share the folder, such as /tmp."""


class NoSocketFolder(InvalidRequest):
    """The folder of the socket does not exist and cannot be created."""

    default_hint = OWN_FOLDER_HINT


def prepare_folder(paths: Paths) -> None:
    """Create the socket's folder if it is mlxd's own, for its owner only, and check it.

    mlxd's own are the state folder, and folders whose names start with `mlxd`. A missing folder
    with another name is probably a typing error in MLXD_SOCKET.

    Raises:
        NoSocketFolder: the folder does not exist, and was not or could not be created.
        PermissionDenied: other users can write to the folder.
    """
    folder = paths.socket.parent
    _create(folder, below_home=folder == paths.state_dir)
    if (error := problem(folder, os.geteuid())) is not None:
        raise error
    if folder.name == APP_NAME and folder.stat().st_mode & OTHERS_MAY_READ:
        folder.chmod(0o700)


def _create(folder: Path, *, below_home: bool) -> None:
    if folder.is_dir() or folder.is_symlink():
        return
    if not below_home and not folder.name.lstrip(".").startswith(APP_NAME):
        raise NoSocketFolder(
            f"The folder of the socket, {folder}, does not exist.",
            hint=f"Create it: mkdir -m 700 {shlex.quote(str(folder))}",
        )
    try:
        folder.mkdir(parents=below_home, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise NoSocketFolder(f"The folder {folder} cannot be created: {exc.strerror}.") from exc


def problem(folder: Path, uid: int) -> PermissionDenied | None:
    """Return why a folder of user `uid` is not safe for the socket, or None if it is.

    Raises:
        OSError: the folder cannot be examined.
    """
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        return PermissionDenied(
            f"{folder} is not a folder but a link or file.", hint=OWN_FOLDER_HINT
        )
    if status.st_uid != uid:
        return PermissionDenied(f"{folder} belongs to user {status.st_uid}.", hint=OWN_FOLDER_HINT)
    if status.st_mode & OTHERS_MAY_WRITE:
        own = folder.name == APP_NAME
        hint = f"Make it yours alone: chmod 700 {folder}" if own else OWN_FOLDER_HINT
        return PermissionDenied(f"Others may write into {folder}.", hint=hint)
    return None
