"""The protocol between clients and the daemon: messages, methods, errors, paths. No I/O."""

PROTOCOL_VERSION = 1
"""Changes within one number are additive; see `SPEC.md`."""
