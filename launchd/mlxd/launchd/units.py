"""The systemd user units.

Keys: systemd.socket(5), systemd.service(5), systemd.exec(5).
"""

from __future__ import annotations

from collections.abc import Sequence

from mlxd.launchd import SOCKET_NAME
from mlxd.launchd.spec import EXIT_TIMEOUT_S, MAX_OPEN_FILES, ServiceSpec

SOCKET_UNIT = "mlxd.socket"
SERVICE_UNIT = "mlxd.service"
HTTP_SOCKET_UNIT = "mlxd-http.socket"
HTTP_SERVICE_UNIT = "mlxd-http.service"

Section = tuple[str, Sequence[tuple[str, str]]]

# Options that user services support. Without MemoryDenyWriteExecute: MLX compiles at run time.
HARDENING = (
    ("NoNewPrivileges", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("SystemCallArchitectures", "native"),
    ("UMask", "0077"),
    ("LimitNOFILE", str(MAX_OPEN_FILES)),
)


def socket_unit(spec: ServiceSpec) -> str:
    """Return mlxd.socket. systemd listens, and starts the service at the first connection."""
    return _render(
        ("Unit", [("Description", "Socket of mlxd, the language model daemon")]),
        (
            "Socket",
            [
                ("ListenStream", _path(str(spec.paths.socket.absolute()))),
                ("FileDescriptorName", SOCKET_NAME),
                ("SocketMode", "0600"),
                ("DirectoryMode", "0700"),
                ("RemoveOnStop", "yes"),
            ],
        ),
        ("Install", [("WantedBy", "sockets.target")]),
    )


def service_unit(spec: ServiceSpec) -> str:
    """Return mlxd.service."""
    variables = [("Environment", _quoted(f"{k}={v}")) for k, v in spec.environment().items()]
    return _render(
        (
            "Unit",
            [
                ("Description", "mlxd, the language model daemon"),
                ("Requires", SOCKET_UNIT),
                ("After", SOCKET_UNIT),
                ("StartLimitIntervalSec", "60"),
                ("StartLimitBurst", "5"),
            ],
        ),
        (
            "Service",
            [
                ("Type", "notify"),
                ("ExecStart", f"{_quoted(str(spec.launcher.absolute()))} run"),
                *variables,
                ("Restart", "on-failure"),
                ("RestartSec", "1"),
                # A restart does not help against an invalid configuration.
                ("RestartPreventExitStatus", "2"),
                ("TimeoutStopSec", str(EXIT_TIMEOUT_S)),
                # The front stops its children. systemd kills those that remain.
                ("KillMode", "mixed"),
                # The front replaces an engine that was killed for lack of memory.
                ("OOMPolicy", "continue"),
                *HARDENING,
            ],
        ),
        ("Install", [("WantedBy", "default.target")]),
    )


def http_socket_unit(port: int) -> str:
    """Return mlxd-http.socket. systemd listens on both loopback addresses."""
    return _render(
        ("Unit", [("Description", "Socket of mlxd's HTTP bridge")]),
        (
            "Socket",
            [
                ("ListenStream", f"127.0.0.1:{port}"),
                ("ListenStream", f"[::1]:{port}"),
                ("BindIPv6Only", "ipv6-only"),
                ("FileDescriptorName", SOCKET_NAME),
            ],
        ),
        ("Install", [("WantedBy", "sockets.target")]),
    )


def http_service_unit(spec: ServiceSpec) -> str:
    """Return mlxd-http.service, which systemd starts at the first connection."""
    variables = [("Environment", _quoted(f"{k}={v}")) for k, v in spec.environment().items()]
    return _render(
        (
            "Unit",
            [
                ("Description", "mlxd's HTTP bridge"),
                ("Requires", HTTP_SOCKET_UNIT),
                ("After", HTTP_SOCKET_UNIT),
            ],
        ),
        (
            "Service",
            [
                ("Type", "notify"),
                ("ExecStart", f"{_quoted(str(spec.launcher.absolute()))} http"),
                *variables,
                ("Restart", "on-failure"),
                ("RestartSec", "1"),
                ("RestartPreventExitStatus", "2"),
                ("TimeoutStopSec", str(EXIT_TIMEOUT_S)),
                # A daemon that the bridge starts must live on when the bridge ends.
                ("KillMode", "process"),
                *HARDENING,
            ],
        ),
    )


def _path(value: str) -> str:
    return value.replace("%", "%%")


def _quoted(value: str) -> str:
    """Quote one word. `%` starts a specifier, and `$` a variable in command lines."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _render(*sections: Section) -> str:
    blocks = (
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in entries)])
        for name, entries in sections
    )
    return "\n\n".join(blocks) + "\n"
