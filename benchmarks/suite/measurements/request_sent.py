"""The client's time from exec to a complete request on the socket.

A listening socket records the time at which the request is complete. The answer is one made-up
token.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import msgpack

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Notification, Request, Response
from suite.figures import in_turn, rounds
from suite.measurements.first_byte import c_client
from suite.plan import Plan
from suite.records import Collector, Record
from suite.spawning import until_exit

RESULT = {
    "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
    "timing": {"time_to_first_token_s": 0.0, "tokens_per_s": 0.0},
    "applied": {"model": "none", "seed": 0, "notes": []},
}
BASE = "python -c pass"
SENT, PRINTED = "exec to request sent", "exec to first byte"


def measure(plan: Plan, bin_folder: Path | None = None, most: int = 60) -> Iterator[Record]:
    folder = bin_folder or Path(sys.executable).parent
    python, mlx = str(folder / "python"), str(folder / "mlx")
    found = Collector("request_sent")
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        env = {**os.environ, "MLXD_SOCKET": os.path.join(home, "s"), "HOME": home}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        listener.bind(env["MLXD_SOCKET"])
        listener.listen(16)
        contenders: dict[str, Callable[[], tuple[float, ...]]] = {
            BASE: lambda: (until_exit([python, "-c", "pass"], env),),
            "python -I -S -c pass": lambda: (until_exit([python, "-I", "-S", "-c", "pass"], env),),
            "mlx ask": lambda: until_request([mlx, "ask", "hello"], env, listener),
            "mlx ask, full program": lambda: until_request(
                [python, "-I", "-m", "mlxd.client.cli", "ask", "hello"], env, listener
            ),
        }
        if program := c_client(Path(home)):
            request = Path(home) / "request"
            params = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
            request.write_bytes(msgpack.packb([0, 1, "chat", [params]]))
            command = [program, env["MLXD_SOCKET"], str(request)]
            contenders["C program"] = lambda: until_request(command, env, listener)
        for one in contenders.values():
            one()
        for turn in rounds(plan.case_s, 10, most):
            for name in in_turn(list(contenders), turn):
                sent, *printed = contenders[name]()
                found.add(SENT, name, "s", sent)
                for moment in printed:
                    found.add(PRINTED, name, "s", moment)
    yield from found.records()


def until_request(
    command: Sequence[str], env: Mapping[str, str], listener: socket.socket
) -> tuple[float, float]:
    """Return the seconds from exec to the request's arrival, and to the first printed byte."""
    started = time.perf_counter()
    with Popen(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
        connection, _ = listener.accept()
        decoder = Decoder()
        with connection:
            request = None
            while request is None:
                decoder.feed(connection.recv(65536))
                request = next((m for m in decoder if isinstance(m, Request)), None)
            arrived = time.perf_counter()
            event = {"id": request.id, "type": "delta", "index": 0, "text": "ok"}
            event["channel"] = "answer"
            connection.sendall(encode(Notification("event", event), Encoding.MSGPACK))
            assert process.stdout is not None
            process.stdout.read(1)
            printed = time.perf_counter()
            with suppress(BrokenPipeError):  # the C program exits after the bytes that it expects
                connection.sendall(encode(Response(request.id, None, RESULT), Encoding.MSGPACK))
            process.communicate()
    return arrived - started, printed - started
