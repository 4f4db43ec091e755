"""The options of the bridge, from its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PORT = 6593
"""The default port: the keys of the letters m, l, x and d on a telephone."""
LOOPBACK = ("127.0.0.1", "::1")
"""Both, because Node and Go resolve localhost to ::1."""
MAX_CONNECTIONS = 512
MAX_BODY_BYTES = 32 << 20  # as the daemon's max_message_bytes
BODIES_IN_MEMORY = 8
"""Bodies of the largest size that all requests together may hold in memory."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the bridge listens at, and whom it serves."""

    port: int = PORT
    addresses: tuple[str, ...] = LOOPBACK
    unix_socket: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    require_key: bool = False
    max_connections: int = MAX_CONNECTIONS
    max_body_bytes: int = MAX_BODY_BYTES
    show_key: bool = False


def parse(arguments: Sequence[str]) -> Options:
    """Return the options of a command line that `mlxd http` has checked."""
    parser = argparse.ArgumentParser(prog="mlxd http", add_help=False)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--listen", action="append", default=[])
    parser.add_argument("--unix-socket", type=Path)
    parser.add_argument("--host-name", action="append", default=[])
    parser.add_argument("--origin", action="append", default=[])
    parser.add_argument("--require-key", action="store_true")
    parser.add_argument("--show-key", action="store_true")
    given = parser.parse_args([*arguments])
    return Options(
        port=given.port,
        addresses=tuple(given.listen) or LOOPBACK,
        unix_socket=given.unix_socket,
        hosts=tuple(name.lower() for name in given.host_name),
        origins=tuple(origin.lower() for origin in given.origin),
        require_key=given.require_key,
        show_key=given.show_key,
    )
