"""Runs the bridge: `mlxd http` starts this module in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

from mlxd.http import keys, listening, peers, presence
from mlxd.http.app import App
from mlxd.http.daemon import Daemon
from mlxd.http.gate import LOOPBACK_NAMES, Gate
from mlxd.http.options import Options, parse
from mlxd.http.server import Server, serve
from mlxd.launchd import activation
from mlxd.protocol.errors import EXIT_INTERRUPTED, MlxdError
from mlxd.protocol.paths import Paths, resolve_paths

READY_FD = "MLXD_READY_FD"
"""Names the descriptor on which the starter waits for a line."""


def main(arguments: list[str]) -> int:
    """Serve until a signal. Return the exit code."""
    os.umask(0o077)
    options, paths = parse(arguments), resolve_paths()
    try:
        if options.show_key:
            print(keys.load_or_create(paths.http_key_file))
            return 0
        asyncio.run(_serve(options, paths))
    except MlxdError as error:
        print(f"mlxd: {error.message}\n      {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


async def _serve(options: Options, paths: Paths) -> None:
    sockets = listening.adopted(os.environ) or listening.open_sockets(options)
    is_loopback = listening.are_loopback(sockets)
    checks_uid = is_loopback and peers.kernel_tells() and not options.require_key
    key = keys.load_or_create(paths.http_key_file) if not checks_uid else None
    gate = Gate(LOOPBACK_NAMES | {*options.hosts}, frozenset(options.origins), key)
    app = App(gate, Daemon(paths.socket), options.max_body_bytes)
    server = Server(options, app, checks_uid=checks_uid)
    try:
        await serve(server, sockets, lambda: _ready(sockets, paths))
    finally:
        if options.unix_socket is not None:
            options.unix_socket.unlink(missing_ok=True)


def _ready(sockets: list[socket.socket], paths: Paths) -> None:
    urls = listening.urls(sockets)
    with contextlib.suppress(OSError):  # stderr may be a file on a full disk
        print(f"mlxd http listens at {' and '.join(urls)}", file=sys.stderr, flush=True)
    presence.announce(paths.http_file, urls[0])
    activation.notify("READY=1", os.environ)
    descriptor = os.environ.pop(READY_FD, "")
    if descriptor.isdecimal():
        # The first URL, for starters that let the system choose the port.
        os.write(int(descriptor), f"{urls[0]}\n".encode())
        os.close(int(descriptor))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    sys.exit(main(sys.argv[1:]))
