"""The contents of a service, independent of the service manager."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxd.protocol.paths import Paths

EXIT_TIMEOUT_S = 20
"""Seconds from SIGTERM to SIGKILL. More than `drain_s`, which is 15 by default."""

MAX_OPEN_FILES = 8192
"""Enough for connections and model files. launchd's default is 256."""

_CELLAR = re.compile(r"(?P<prefix>.*)/Cellar/(?P<formula>[^/]+)/[^/]+/(?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One installation: its Python, its paths, and when it starts."""

    paths: Paths
    python: str
    at_login: bool = False

    @property
    def launcher(self) -> Path:
        """The script that the manager starts. Login Items shows its name."""
        return self.paths.state_dir / "bin" / "mlxd"

    @property
    def crash_log(self) -> Path:
        """Receives the process's output outside its log."""
        return self.paths.log_dir / "mlxd.err"

    def environment(self) -> dict[str, str]:
        """Return the variables of the service: paths only, as it does not see the shell's.

        Settings belong in config.toml, which upgrades do not overwrite.
        """
        return {
            "MLXD_SOCKET": str(self.paths.socket),
            "MLXD_CONFIG_DIR": str(self.paths.config_dir.absolute()),
            "MLXD_STATE_DIR": str(self.paths.state_dir.absolute()),
            "MLXD_DATA_DIR": str(self.paths.data_dir.absolute()),
            "MLXD_CACHE_DIR": str(self.paths.cache_dir.absolute()),
            "MLXD_LOG_DIR": str(self.paths.log_dir.absolute()),
        }

    def launcher_text(self) -> str:
        """Return the launcher. It uses exec, to stay the process that the manager started."""
        python = shlex.quote(self.python)
        return (
            "#!/bin/sh\n"
            "# Written by `mlxd install`; removed by `mlxd uninstall`.\n"
            f"python={python}\n"
            '[ -x "$python" ] || {\n'
            '  echo "mlxd: $python is gone. Install mlxd again, then: mlxd install" >&2\n'
            "  exit 2\n"
            "}\n"
            'exec "$python" -I -m mlxd.daemon.cli "$@"\n'
        )


def stable_python(executable: str, exists: Callable[[str], bool]) -> str:
    """Return a path to the same interpreter that stays valid after upgrades.

    Homebrew's Cellar has the version in the path, and `opt/FORMULA` points to the newest. Other
    links are not followed: in a virtual environment, python itself is a link.
    """
    if match := _CELLAR.fullmatch(executable):
        stable = f"{match['prefix']}/opt/{match['formula']}/{match['rest']}"
        if exists(stable):
            return stable
    return executable
