"""Where everything lives on disk. Pure: an environment in, paths out; nothing is created here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from mlxd.protocol.errors import InvalidRequest

APP_NAME = "mlxd"
SOCKET_PATH_MAX_BYTES = 103  # sun_path is 104 on macOS, with the NUL


class SocketPathTooLong(InvalidRequest):
    """The socket path does not fit into the kernel's address structure."""

    default_hint = "Set MLXD_SOCKET to a shorter path, for instance /tmp/mlxd-$UID/mlxd.sock"


class RelativeSocket(InvalidRequest):
    """MLXD_SOCKET would name another socket in every folder."""

    default_hint = "Set it to the whole path of the socket, or unset it."


class NoHome(InvalidRequest):
    """Nobody says where this user's files belong: no HOME, and no entry among the users."""

    default_hint = "Set HOME to a folder of yours."


@dataclass(frozen=True, slots=True)
class Paths:
    """Every location that mlxd uses, for one environment."""

    socket: Path
    config_dir: Path
    state_dir: Path
    data_dir: Path
    cache_dir: Path
    log_dir: Path

    @property
    def config_file(self) -> Path:
        return self.config_dir / "config.toml"

    @property
    def conversations_db(self) -> Path:
        return self.state_dir / "conversations.db"

    @property
    def resume_file(self) -> Path:
        """What was in memory when a restart began."""
        return self.state_dir / "resume.json"

    @property
    def models_dir(self) -> Path:
        """Where converted models go, and are found by name."""
        return self.data_dir / "models"

    @property
    def prompts_dir(self) -> Path:
        """Where KV of prompts is kept for reuse."""
        return self.cache_dir / "prompts"

    @property
    def kernels_dir(self) -> Path:
        """Where MLX keeps what it has compiled for the CPU."""
        return self.cache_dir / "kernels"

    @property
    def lock_file(self) -> Path:
        return self.socket.with_name(self.socket.name + ".lock")

    @property
    def log_file(self) -> Path:
        return self.log_dir / "mlxd.log"


def resolve_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the paths for `environ` (default: the process's own).

    Raises:
        RelativeSocket: MLXD_SOCKET is no absolute path.
        SocketPathTooLong: the socket path has more than `SOCKET_PATH_MAX_BYTES` bytes.
        NoHome: there is no home directory, and a folder that would be in it is not set.
    """
    env = os.environ if environ is None else environ
    state_dir = _folder(env, "state")
    return Paths(
        socket=check_socket_path(_socket_path(env, state_dir)),
        config_dir=_folder(env, "config"),
        state_dir=state_dir,
        data_dir=_folder(env, "data"),
        cache_dir=_folder(env, "cache"),
        log_dir=_folder(env, "log"),
    )


def _folder(env: Mapping[str, str], kind: str) -> Path:
    if chosen := env.get(f"MLXD_{kind.upper()}_DIR"):
        return Path(chosen)
    try:
        folder = getattr(platformdirs.PlatformDirs(APP_NAME, appauthor=False), f"user_{kind}_dir")
    except RuntimeError as exc:
        raise _no_home() from exc
    if folder.startswith("~"):  # what releases before 4.14 return
        raise _no_home()
    return Path(folder)


def _no_home() -> NoHome:
    return NoHome(f"HOME is not set, and user {os.getuid()} has no home directory.")


def _socket_path(env: Mapping[str, str], state_dir: Path) -> Path:
    if chosen := env.get("MLXD_SOCKET"):
        if not chosen.startswith("/"):
            raise RelativeSocket(f'MLXD_SOCKET must be an absolute path, not "{chosen}".')
        return Path(chosen)
    if runtime_dir := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime_dir) / APP_NAME / "mlxd.sock"
    return state_dir / "mlxd.sock"


def check_socket_path(path: Path) -> Path:
    """Return `path`, or raise `SocketPathTooLong` with both lengths."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX_BYTES:
        raise SocketPathTooLong(
            f"The socket path has {size} bytes, more than the {SOCKET_PATH_MAX_BYTES} "
            f"that a Unix socket address holds: {path}",
            data={"bytes": size, "max_bytes": SOCKET_PATH_MAX_BYTES},
        )
    return path
