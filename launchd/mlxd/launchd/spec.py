"""What a service consists of, before it becomes a property list or a unit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxd.protocol.paths import Paths

EXIT_TIMEOUT_S = 20
"""Seconds from SIGTERM to SIGKILL; more than the daemon's own default of 15 for draining."""

MAX_OPEN_FILES = 8192
"""Connections, model files and room; launchd's own default is 256."""

_CELLAR = re.compile(r"(?P<prefix>.*)/Cellar/(?P<formula>[^/]+)/[^/]+/(?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One installation: what runs, where everything lies, and when it starts."""

    paths: Paths
    python: str
    at_login: bool = False

    @property
    def launcher(self) -> Path:
        """The script that is started. Its name is what Login Items shows."""
        return self.paths.state_dir / "bin" / "mlxd"

    @property
    def crash_log(self) -> Path:
        """Takes what the process says outside its own log."""
        return self.paths.log_dir / "mlxd.err"

    def environment(self) -> dict[str, str]:
        """The places, and only those: a service sees none of the shell's variables.

        Everything else belongs into config.toml, where an upgrade leaves it alone.
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
        """The launcher keeps its process id (exec), as systemd and launchd expect."""
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
    """Return a path to the same interpreter that outlives upgrades.

    Homebrew's Cellar has the version in the path; `opt/FORMULA` points to the newest. Links are
    not followed otherwise: a virtual environment is its link.
    """
    if match := _CELLAR.fullmatch(executable):
        stable = f"{match['prefix']}/opt/{match['formula']}/{match['rest']}"
        if exists(stable):
            return stable
    return executable
