"""The socket: listener, connections and events for callers."""
