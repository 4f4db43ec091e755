"""Sends one request to the daemon and returns its answer, for the `mlxd` commands. No asyncio."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import DaemonUnreachable, RequestTimeout, error_from_map
from mlxd.protocol.messages import Params, Request, Response
from mlxd.safesocket.connect import connect

ANSWER_TIMEOUT_S = 12.0
"""Longer than the 10 s that launchd waits before it restarts a service that crashed. Meanwhile
clients can connect, but nothing answers."""

_CHUNK_BYTES = 65536


class DaemonSilent(DaemonUnreachable):
    """The socket accepts connections, but nothing answers."""

    default_hint = (
        "If a service keeps crashing, its manager delays the next start. "
        "Read the log: mlxd logs -n 50. Or stop it: mlxd stop --force"
    )


def request(
    path: Path, method: str, params: Params | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
) -> Any:
    """Send one request to the socket at `path` and return its result.

    Raises:
        DaemonUnreachable: nothing listens there. `DaemonSilent`: something does, but does not
            answer.
        MlxdError: the daemon answered with an error.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with contextlib.closing(connect(path, timeout_s)) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(encode(Request(1, method, params or {}), Encoding.MSGPACK))
            response = next(_responses(connection, deadline))
    except (TimeoutError, RequestTimeout) as exc:
        raise DaemonSilent(
            f"The daemon at {path} did not answer within {timeout_s:.0f} s."
        ) from exc
    except (ConnectionError, StopIteration) as exc:
        raise DaemonUnreachable(f"The daemon at {path} closed the connection.") from exc
    if response.error is not None:
        raise error_from_map(response.error)
    return response.result


def _responses(connection: socket.socket, deadline: float) -> Iterator[Response]:
    decoder = Decoder()
    while True:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        data = connection.recv(_CHUNK_BYTES)
        if not data:
            return
        decoder.feed(data)
        for message in decoder:
            if isinstance(message, Response):
                yield message
