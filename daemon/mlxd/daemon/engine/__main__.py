"""`python -m mlxd.daemon.engine --fd N --parent PID --options JSON`. Only the front starts it."""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import socket
import sys

from mlxd.daemon import lifeline
from mlxd.daemon.engine.backend.residency import keep_resident
from mlxd.daemon.engine.link import Inbox, Link
from mlxd.daemon.engine.options import EngineOptions
from mlxd.daemon.engine.progress import Progress
from mlxd.daemon.stderr import hide_error_messages

EXIT_DEVICE_FAILED = 70


def main() -> int:
    """Serve the front on the inherited socket until the front disconnects or no model is loaded."""
    parser = argparse.ArgumentParser(prog="mlxd engine")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--options", default="{}")
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    lifeline.end_with(arguments.parent)
    sock = socket.socket(fileno=arguments.fd)
    options = EngineOptions.from_json(arguments.options)
    inbox: Inbox = queue.SimpleQueue()
    progress = Progress()
    link = Link(sock, inbox, progress)
    link.start()
    keep_resident(options.residency_refresh_ms, os.environ, sys.platform)
    # Imported late, because it takes seconds. The link answers the front's pings meanwhile.
    from mlxd.daemon.engine.models.mlx_lm_imports import import_without_transformers

    import_without_transformers()
    from mlxd.daemon.engine.start import serve

    if not options.log_text:
        hide_error_messages()
    reason = serve(link, inbox, progress, options)
    sys.stderr.flush()
    if reason == "empty":
        link.notify("bye", {"reason": reason})
    with contextlib.suppress(OSError):  # macOS: ENOTCONN if the front has closed the link
        sock.shutdown(socket.SHUT_WR)
    # Exit without joining the threads of MLX and of tokenizers, which may take long to end.
    os._exit(EXIT_DEVICE_FAILED if reason == "device failed" else 0)


if __name__ == "__main__":
    sys.exit(main())
