"""mlxd as a service: a launchd agent on macOS, systemd user units on Linux."""

LABEL = "mlxd.daemon"
"""The agent's label, and the stem of its property list."""

SOCKET_NAME = "Listener"
"""What the agent calls its socket; activation asks for it by this name."""
