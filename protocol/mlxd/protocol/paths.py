"""The files and folders that mlxd uses, derived from an environment. Creates and reads no files.

On macOS the `XDG_*` variables are ignored: launchd and editors started from the Dock do not see a
shell's variables, and would use other folders than the shell's commands. The fast path, zsh, Emacs,
Neovim and JavaScript derive the socket by the same rules. Change them together.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxd.protocol.errors import InvalidRequest

APP_NAME = "mlxd"
SOCKET_PATH_MAX_BYTES = 103  # sun_path has 104 bytes on macOS, including the NUL


class SocketPathTooLong(InvalidRequest):
    """The socket path is longer than a Unix socket address allows."""

    default_hint = "Use a shorter path: export MLXD_SOCKET=/tmp/mlxd-$UID/mlxd.sock"


class RelativePath(InvalidRequest):
    """A variable has a relative path, which differs in every working directory."""

    default_hint = "Set it to the whole path of the folder, or unset it."


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
    def findings_dir(self) -> Path:
        """What the engine measured of models: how they may be served."""
        return self.cache_dir / "findings"

    @property
    def kernels_dir(self) -> Path:
        """The folder for kernels that MLX compiles for the CPU."""
        return self.cache_dir / "kernels"

    @property
    def lock_file(self) -> Path:
        return self.socket.with_name(self.socket.name + ".lock")

    @property
    def http_file(self) -> Path:
        """The file with the URL of the HTTP bridge, which holds its lock."""
        return self.state_dir / "http.lock"

    @property
    def http_key_file(self) -> Path:
        return self.state_dir / "http.key"

    @property
    def log_file(self) -> Path:
        return self.log_dir / "mlxd.log"


_XDG = {
    "config": ("XDG_CONFIG_HOME", ".config", APP_NAME),
    "state": ("XDG_STATE_HOME", ".local/state", APP_NAME),
    "data": ("XDG_DATA_HOME", ".local/share", APP_NAME),
    "cache": ("XDG_CACHE_HOME", ".cache", APP_NAME),
    "log": ("XDG_STATE_HOME", ".local/state", f"{APP_NAME}/log"),
}
"""Maps a kind of folder to the variable for its parent, the default below home, and a name."""

_MACOS = {
    "config": "Library/Application Support",
    "state": "Library/Application Support",
    "data": "Library/Application Support",
    "cache": "Library/Caches",
    "log": "Library/Logs",
}
"""Maps a kind of folder to its parent below home (Apple's File System Programming Guide)."""


def resolve_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Return the paths for an environment on this machine, by default that of this process.

    Raises as `derive_paths` does.
    """
    env = os.environ if environ is None else environ
    return derive_paths(env, sys.platform, env.get("HOME") or _account_home())


def derive_paths(environ: Mapping[str, str], platform: str, home: str | None) -> Paths:
    """Return the paths for an environment on a platform. A pure function.

    `home` is None if the user has no home directory.

    Raises:
        RelativePath: MLXD_SOCKET or the variable of a folder is a relative path.
        SocketPathTooLong: the socket path has more than `SOCKET_PATH_MAX_BYTES` bytes.
        NoHome: the user has no home directory, and a folder below it is needed.
    """
    folders = {kind: _folder(environ, platform, home, kind) for kind in _XDG}
    return Paths(
        socket=check_socket_path(_socket_path(environ, platform, folders["state"])),
        config_dir=folders["config"],
        state_dir=folders["state"],
        data_dir=folders["data"],
        cache_dir=folders["cache"],
        log_dir=folders["log"],
    )


def _folder(env: Mapping[str, str], platform: str, home: str | None, kind: str) -> Path:
    variable = f"MLXD_{kind.upper()}_DIR"
    if chosen := env.get(variable):
        return _absolute(variable, chosen, RelativePath.default_hint)
    xdg_variable, below_home, rest = _XDG[kind]
    if platform == "darwin":
        return Path(_required(home), _MACOS[kind], APP_NAME)
    # The XDG specification says to ignore relative values.
    if (base := env.get(xdg_variable, "")).startswith("/"):
        return Path(base, rest)
    return Path(_required(home), below_home, rest)


def _required(home: str | None) -> str:
    if home is None:
        raise NoHome(f"HOME is not set, and user {os.getuid()} has no home directory.")
    return home


def _account_home() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:
        return None


def _socket_path(env: Mapping[str, str], platform: str, state_dir: Path) -> Path:
    if chosen := env.get("MLXD_SOCKET"):
        hint = "Set it to the whole path of the socket, or unset it."
        return _absolute("MLXD_SOCKET", chosen, hint)
    if platform != "darwin" and (runtime := env.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(runtime, APP_NAME, "mlxd.sock")
    return state_dir / "mlxd.sock"


def _absolute(variable: str, value: str, hint: str) -> Path:
    if not value.startswith("/"):
        raise RelativePath(f'{variable} must be an absolute path, not "{value}".', hint=hint)
    return Path(value)


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
