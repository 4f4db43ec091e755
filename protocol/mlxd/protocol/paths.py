"""The files and folders that mlxd uses, derived from the environment. Creates nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from mlxd.protocol.errors import InvalidRequest

APP_NAME = "mlxd"
SOCKET_PATH_MAX_BYTES = 103  # sun_path has 104 bytes on macOS, including the NUL


class SocketPathTooLong(InvalidRequest):
    """The socket path is longer than a Unix socket address allows."""

    default_hint = "Use a shorter path: export MLXD_SOCKET=/tmp/mlxd-$UID/mlxd.sock"


class RelativeSocket(InvalidRequest):
    """MLXD_SOCKET is relative, and would name a different socket in every working directory."""

    default_hint = "Set it to the whole path of the socket, or unset it."


class NoHome(InvalidRequest):
    """The user has no home directory: HOME is not set, and the user database has none."""

    default_hint = "Set HOME to a folder that you own, for example: export HOME=/var/lib/mlxd"


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths that mlxd uses in one environment."""

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
        """The models that were loaded when a restart began."""
        return self.state_dir / "resume.json"

    @property
    def models_dir(self) -> Path:
        """The folder for converted models, which are found by name."""
        return self.data_dir / "models"

    @property
    def prompts_dir(self) -> Path:
        """The folder for KV caches of prompts."""
        return self.cache_dir / "prompts"

    @property
    def kernels_dir(self) -> Path:
        """The folder for kernels that MLX compiles for the CPU."""
        return self.cache_dir / "kernels"

    @property
    def lock_file(self) -> Path:
        return self.socket.with_name(self.socket.name + ".lock")

    @property
    def log_file(self) -> Path:
        return self.log_dir / "mlxd.log"


def resolve_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the paths for an environment, by default that of this process.

    Raises:
        RelativeSocket: MLXD_SOCKET is a relative path.
        SocketPathTooLong: the socket path has more than `SOCKET_PATH_MAX_BYTES` bytes.
        NoHome: the user has no home directory, and a folder below it is needed.
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
    if folder.startswith("~"):  # platformdirs before 4.14
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
    """Return `path` unchanged.

    Raises:
        SocketPathTooLong: it has more than `SOCKET_PATH_MAX_BYTES` bytes.
    """
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX_BYTES:
        raise SocketPathTooLong(
            f"The socket path has {size} bytes. A Unix socket address holds at most "
            f"{SOCKET_PATH_MAX_BYTES}: {path}",
            data={"bytes": size, "max_bytes": SOCKET_PATH_MAX_BYTES},
        )
    return path
