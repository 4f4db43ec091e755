"""The socket: listener, connections and events."""
