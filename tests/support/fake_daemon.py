"""A fake `mlxd run`, for tests of programs that start, stop and call it. It is a real process.

It holds the lock, listens, reports that it is ready, and answers some methods. FAKE_DAEMON selects
a fault: `fail` exits with status 5 and a message, `mute` never answers, `deaf` ignores shutdown,
`old` does not know the parameter `resume` of shutdown, `error:CODE` answers with that error.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from mlxd.daemon import lock, starter
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import ERRORS, InvalidParams, MlxdError
from mlxd.protocol.messages import Request, Response
from mlxd.protocol.paths import Paths, resolve_paths


def main() -> int:
    trouble = os.environ.get("FAKE_DAEMON", "")
    paths = resolve_paths()
    if trouble == "fail":
        print("mlxd: The model is broken.\n      Get another one.", file=sys.stderr)
        return 5
    if lock.take(paths.lock_file) is None:
        print("mlxd: Another one is running.", file=sys.stderr)
        return 1
    with (paths.log_dir / "births").open("a") as births:
        births.write(f"{os.getpid()}\n")
    serve(paths, trouble)
    return 0


def serve(paths: Paths, trouble: str) -> None:
    Path(paths.socket).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths.socket))
        listener.listen(128)
        starter.tell_ready(os.environ)
        stopping = False
        while not stopping:
            connection, _ = listener.accept()
            with connection:
                stopping = answer(connection, trouble)
    paths.socket.unlink()


def answer(connection: socket.socket, trouble: str) -> bool:
    decoder = Decoder()
    while data := connection.recv(65536):
        if trouble == "mute":
            continue
        decoder.feed(data)
        for message in decoder:
            assert isinstance(message, Request)
            kind = ERRORS.get(trouble.removeprefix("error:"))
            if kind is not None and message.method not in ("hello", "shutdown"):
                error = error_map(kind)
                connection.sendall(encode(Response(message.id, error), Encoding.MSGPACK))
                continue
            if trouble == "old" and "resume" in message.params:
                error = InvalidParams("resume", "is no parameter of shutdown").to_map()
                connection.sendall(encode(Response(message.id, error, None), Encoding.MSGPACK))
                continue
            result = RESULTS.get(message.method, {})
            connection.sendall(encode(Response(message.id, None, result), Encoding.MSGPACK))
            if message.method == "shutdown" and trouble != "deaf":
                return True
    return False


def error_map(kind: type[MlxdError]) -> dict[str, Any]:
    error = kind.__new__(kind)
    MlxdError.__init__(error, "It went wrong.")
    return error.to_map()


RESULTS: dict[str, dict[str, Any]] = {
    "ping": {"pong": True},
    "hello": {"server": "mlxd", "version": os.environ.get("FAKE_VERSION", "0"), "protocol": 1},
    "shutdown": {"stopping": True},
    "status": {"state": "ready", "pid": os.getpid(), "uptime_s": 61.0},
}

if __name__ == "__main__":
    sys.exit(main())
