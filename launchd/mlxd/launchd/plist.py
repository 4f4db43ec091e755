"""The property list of the launchd agent. Its keys are described in launchd.plist(5)."""

from __future__ import annotations

import dataclasses
import plistlib
from typing import Any

from mlxd.launchd import HTTP_LABEL, LABEL, SOCKET_NAME
from mlxd.launchd.spec import EXIT_TIMEOUT_S, MAX_OPEN_FILES, ServiceSpec

_SOCKET_MODE = 0o600  # property lists have decimal integers only


_SESSION_KEY = "LimitLoadToSessionType"


def agent(spec: ServiceSpec, domain: str) -> dict[str, Any]:
    """Return the agent's property list for a domain, such as gui/501.

    launchd expands nothing, so every path is absolute.
    """
    about: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": [str(spec.launcher.absolute()), "run"],
        "EnvironmentVariables": spec.environment(),
        # Other types have their CPU and disk throttled: 11 tokens/s were measured instead of 87.
        "ProcessType": "Interactive",
        "Sockets": {
            SOCKET_NAME: {
                "SockPathName": str(spec.paths.socket),
                "SockPathMode": _SOCKET_MODE,
            }
        },
        "ExitTimeOut": EXIT_TIMEOUT_S,
        "Umask": "077",
        "SoftResourceLimits": {"NumberOfFiles": MAX_OPEN_FILES},
        # For crashes only, as launchd never rotates it. The daemon writes its own log.
        "StandardOutPath": str(spec.crash_log.absolute()),
        "StandardErrorPath": str(spec.crash_log.absolute()),
    }
    # No KeepAlive in any form: it would start the daemon when the agent is loaded.
    if spec.at_login:
        about["RunAtLoad"] = True
    return about | _session(domain)


def http_agent(spec: ServiceSpec, port: int, domain: str) -> dict[str, Any]:
    """Return the property list of the HTTP bridge. launchd listens on both loopback addresses."""
    addresses = (("127.0.0.1", "IPv4"), ("::1", "IPv6"))
    sockets = [
        {"SockNodeName": node, "SockServiceName": str(port), "SockFamily": family}
        for node, family in addresses
    ]
    crash_log = str(spec.paths.log_dir.absolute() / "http.err")
    return {
        **agent(dataclasses.replace(spec, at_login=False), domain),
        "Label": HTTP_LABEL,
        "ProgramArguments": [str(spec.launcher.absolute()), "http"],
        "Sockets": {SOCKET_NAME: sockets},
        # A daemon that the bridge starts must live on when the bridge ends.
        "AbandonProcessGroup": True,
        "StandardOutPath": crash_log,
        "StandardErrorPath": crash_log,
    }


def http_agent_bytes(spec: ServiceSpec, port: int, domain: str) -> bytes:
    """Return the property list of the HTTP bridge as XML."""
    return plistlib.dumps(http_agent(spec, port, domain), sort_keys=True)


def _session(domain: str) -> dict[str, Any]:
    """Return the session type of a domain, which is never both.

    With both, a login would load the agent into two domains, and two jobs would want one socket.
    Without the key it is Aqua, the desktop's.
    """
    return {_SESSION_KEY: "Background"} if domain.startswith("user/") else {}


def agent_bytes(spec: ServiceSpec, domain: str) -> bytes:
    """Return the property list for a domain as XML."""
    return plistlib.dumps(agent(spec, domain), sort_keys=True)


def moved(plist: bytes, domain: str) -> bytes:
    """Return a property list as it is for another domain."""
    about = plistlib.loads(plist)
    about.pop(_SESSION_KEY, None)
    return plistlib.dumps(about | _session(domain), sort_keys=True)
