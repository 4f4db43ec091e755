"""The cost of a start in counts, which do not depend on the load of the machine.

The limits are today's counts, with some room for other versions of Python and of the system.
A count over its limit makes every start slower: find the cause before you raise the limit.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.client.fast import options, wire
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Notification, Request, Response
from support.commands import BIN
from support.counting import instructions, system_calls
from support.places import own_environ

MORE_SYSTEM_CALLS = 240  # than an empty Python script; 203 with Python 3.11 on Linux
REQUEST_BYTES = 70  # without the question and the working folder's path; now 43
FRONT_MODULES = 420
RESULT = {
    "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
    "timing": {"time_to_first_token_s": 0.0, "tokens_per_s": 0.0},
    "applied": {"model": "none", "seed": 0, "notes": []},
}


class OneAnswer:
    """A server that answers every request with `ok`, and keeps the bytes it received."""

    def __init__(self, path: str) -> None:
        self.received: list[bytes] = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return  # closed: the test is over
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        decoder, data = Decoder(), b""
        request = None
        while request is None:
            piece = connection.recv(65536)
            data += piece
            decoder.feed(piece)
            request = next((one for one in decoder if isinstance(one, Request)), None)
        self.received.append(data)
        delta = {"id": request.id, "type": "delta", "index": 0, "text": "ok", "channel": "answer"}
        connection.sendall(
            encode(Notification("event", delta), Encoding.MSGPACK)
            + encode(Response(request.id, None, RESULT), Encoding.MSGPACK)
        )
        connection.recv(1)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    found = own_environ(tmp_path)
    del found["PYTHONPATH"]  # as for a user: modules come from the installed environment
    found["MLXD_SOCKET"] = str(tmp_path / "s")
    return found


@pytest.fixture
def answer_server(environ: dict[str, str]) -> Iterator[OneAnswer]:
    server = OneAnswer(environ["MLXD_SOCKET"])
    # The first call writes the compiled modules, and is not counted.
    subprocess.run([str(BIN / "mlx"), "ask", "hello"], env=environ, check=True, timeout=60,
                   stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
    yield server
    server.sock.shutdown(socket.SHUT_RDWR)
    server.sock.close()


def test_ask_makes_few_more_system_calls_than_an_empty_python(
    environ: dict[str, str], answer_server: OneAnswer
) -> None:
    ask = system_calls([str(BIN / "mlx"), "ask", "hello"], environ)
    empty = system_calls([str(BIN / "python"), "-I", "-S", "-c", "pass"], environ)
    assert len(ask.made) - len(empty.made) <= MORE_SYSTEM_CALLS


def test_ask_makes_one_connection_with_one_write_and_one_read(
    environ: dict[str, str], answer_server: OneAnswer
) -> None:
    names = system_calls([str(BIN / "mlx"), "ask", "hello"], environ).names
    assert names["connect"] == 1
    assert names["sendto"] + names["sendmsg"] == 1
    assert names["recvfrom"] + names["recvmsg"] <= 2  # event and response may arrive separately
    assert names["write"] <= 2  # the answer and the newline
    assert names["execve"] == 2 + names["vfork"] + names["fork"]  # sh, then Python


def test_a_question_imports_five_small_modules_of_ours_and_two_of_pythons(
    environ: dict[str, str], answer_server: OneAnswer
) -> None:
    calls = system_calls([str(BIN / "mlx"), "ask", "hello"], environ)
    small = [*calls.opened("/fast/__pycache__/"), *calls.opened("/safesocket/__pycache__/")]
    ours = {Path(path).name.partition(".")[0] for path in small}
    assert ours <= {"main", "text", "options", "wire", "peercred"}
    libraries = {Path(path).name.partition(".")[0] for path in calls.opened("/lib-dynload/")}
    assert libraries <= {"_socket", "_struct"}
    empty = system_calls([str(BIN / "python"), "-I", "-S", "-c", "pass"], environ)
    assert set(calls.opened(".pyc")) - set(empty.opened(".pyc")) == set(small)


def test_ask_sends_one_small_message(answer_server: OneAnswer) -> None:
    (sent,) = answer_server.received
    assert len(sent) - len("hello") - len(str(Path.cwd())) <= REQUEST_BYTES


def test_parsing_options_and_packing_a_request_take_few_instructions() -> None:
    line = ["-m", "pocket", "--temp", "0", "--max-tokens", "16", "Count", "from", "3", "to", "7."]

    def parse() -> None:
        assert options.parse(line) is not None

    message = [
        0,
        1,
        "chat",
        [{"messages": [{"role": "user", "content": "Count."}], "stream": True}],
    ]
    assert instructions(parse) <= 2500
    assert instructions(lambda: wire.pack(message)) <= 1500


def test_the_front_starts_with_few_modules(environ: dict[str, str]) -> None:
    count = "import sys, mlxd.daemon.front.app; print(len(sys.modules))"
    done = subprocess.run([sys.executable, "-c", count], env=environ, check=True, timeout=60,
                          capture_output=True, text=True)  # fmt: skip
    assert int(done.stdout) <= FRONT_MODULES
