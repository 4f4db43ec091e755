"""mlxd as a service: a launchd agent on macOS, systemd user units on Linux."""

LABEL = "mlxd.daemon"
"""Label of the agent, and file name of its property list."""

HTTP_LABEL = "mlxd.http"
"""Label of the HTTP bridge's agent."""

SOCKET_NAME = "Listener"
"""Name of the socket in the property list and in mlxd.socket."""
