"""The socket: listener, connections, events to callers."""
