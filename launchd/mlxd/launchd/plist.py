"""The property list of the launchd agent, from data. Keys: launchd.plist(5)."""

from __future__ import annotations

import plistlib
from typing import Any

from mlxd.launchd import LABEL, SOCKET_NAME
from mlxd.launchd.spec import EXIT_TIMEOUT_S, MAX_OPEN_FILES, ServiceSpec

_SOCKET_MODE = 0o600  # written as a decimal integer: property lists know no octal


def agent(spec: ServiceSpec) -> dict[str, Any]:
    """Return the agent's property list. Values are not expanded: every path is absolute."""
    about: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": [str(spec.launcher.absolute()), "run"],
        "EnvironmentVariables": spec.environment(),
        # Anything else has its CPU and disk throttled: measured at 11 tokens/s instead of 87.
        "ProcessType": "Interactive",
        "Sockets": {
            SOCKET_NAME: {
                "SockPathName": str(spec.paths.socket),
                "SockPathMode": _SOCKET_MODE,
            }
        },
        "ExitTimeOut": EXIT_TIMEOUT_S,
        "Umask": "077",
        "LimitLoadToSessionType": ["Aqua", "Background"],
        "SoftResourceLimits": {"NumberOfFiles": MAX_OPEN_FILES},
        # Never rotated by launchd, so for crashes only; the log proper is the daemon's own.
        "StandardOutPath": str(spec.crash_log.absolute()),
        "StandardErrorPath": str(spec.crash_log.absolute()),
    }
    # No KeepAlive in any form: it would start the daemon at load, socket or not.
    if spec.at_login:
        about["RunAtLoad"] = True
    return about


def agent_bytes(spec: ServiceSpec) -> bytes:
    """Return the property list as XML."""
    return plistlib.dumps(agent(spec), sort_keys=True)
