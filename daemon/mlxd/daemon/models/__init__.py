"""The models on this machine; `pocket/` is the built-in one."""
