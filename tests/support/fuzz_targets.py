"""Fuzz targets: properties of the codec, the method table and a whole front for arbitrary bytes.

Each target takes bytes, and raises if a property is violated. `tools/fuzz` searches for such bytes,
guided by coverage. The tests replay the inputs that it kept in `tests/corpus`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxd.daemon.config import Config, load_config
from mlxd.daemon.front.app import Front
from mlxd.daemon.front.server.listener import open_listener
from mlxd.protocol.codec import Decoder, Encoding, Limits, encode
from mlxd.protocol.errors import InvalidParams, MlxdError, ParseError
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response
from mlxd.protocol.methods import METHODS, validate
from mlxd.protocol.paths import Paths, resolve_paths
from support.daemon_process import fake_engine_settings
from support.places import own_environ

LIMITS = Limits(max_message_bytes=4096, max_depth=16)
KINDS = (Request, Response, Notification, BadRequest)
ANSWER_S = 20.0
"""Longest time, in seconds, that an input of a few hundred bytes may occupy a connection."""
KEPT_OUT = frozenset({"shutdown", *(name for name in METHODS if name.startswith("models."))}) - {
    "models.list",
    "models.show",
}
"""Methods that stop the daemon, or use files outside of its folders."""

Target = Callable[[bytes], None]


# ---- the codec


def codec(data: bytes) -> None:
    """Check that decoding does not depend on chunk boundaries, and that messages can be encoded.

    The first byte selects the size of the chunks.
    """
    step = data[0] % 16 + 1 if data else 1
    whole = decoded(data[1:], len(data) or 1)
    # Compared as text, because errors and NaN are not equal to copies of themselves.
    assert repr(decoded(data[1:], step)) == repr(whole), (
        "the chunks decode to something else than the whole"
    )
    for message in whole[0]:
        assert isinstance(message, KINDS)
        if not isinstance(message, BadRequest):
            _comes_back(message)


def decoded(data: bytes, step: int) -> tuple[list[Any], bool]:
    """Return the messages decoded in chunks of `step` bytes, and whether a ParseError occurred."""
    decoder = Decoder(LIMITS)
    found: list[Any] = []
    try:
        for at in range(0, len(data), step):
            decoder.feed(data[at : at + step])
            found.extend(decoder)
            assert decoder.buffered_bytes <= LIMITS.max_message_bytes + step
    except ParseError:
        decoder.feed(b'{"id":1,"method":"ping"}\n\x94\x00\x01\xa4ping\x90')
        assert list(decoder) == [], "after an error no message is decoded"
        return found, True
    return found, False


def _comes_back(message: Message) -> None:
    again = Decoder()
    again.feed(encode(message, Encoding.MSGPACK))
    number = getattr(message, "id", 0)
    if isinstance(message, Request) and not (isinstance(number, int) and 0 <= number < 2**32):
        return  # only JSON-RPC allows such ids
    if isinstance(message, Response) and (
        isinstance(number, str) or not 0 <= (number or 0) < 2**32
    ):
        return
    (copy,) = again
    assert repr(copy) == repr(message)


# ---- the method table


def methods(data: bytes) -> None:
    """Check that parameters are refused by name, or normalised to a form that stays the same."""
    for message in decoded(data, len(data) or 1)[0]:
        if isinstance(message, Request):
            check_method(message.method, message.params)


def check_method(name: str, params: dict[str, Any]) -> None:
    try:
        normal = validate(name, params)
    except MlxdError as error:
        _is_whole(error)
        return
    assert normal.keys() == {param.name for param in METHODS[name].params}
    given = {key: value for key, value in normal.items() if value is not None}
    assert repr(validate(name, given)) == repr(normal), "the normal form is not normal"
    encode(Request(1, name, normal), Encoding.MSGPACK)  # the message to the engine


def _is_whole(error: MlxdError) -> None:
    assert error.hint
    if isinstance(error, InvalidParams):
        # The name is empty if the error is about a combination of parameters.
        assert error.message.startswith(error.data["param"])


# ---- a whole front


class LogReader(logging.Handler):
    """Collects the log's lines about failures in the front itself."""

    def __init__(self, trouble: list[str]) -> None:
        super().__init__()
        self._trouble = trouble

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if json.loads(line)["event"] in ("internal error", "unexpected"):
            self._trouble.append(line)


class FrontTarget:
    """A front in this process, on a real socket, with a child process as its engine."""

    def __init__(self, folder: Path) -> None:
        environ = {
            **own_environ(folder),
            **fake_engine_settings("brief"),
            "MLXD_UPGRADE_CHECK_S": "0",
        }
        os.environ.update(environ)
        paths = resolve_paths(environ)
        self._loop = asyncio.new_event_loop()
        self._path = environ["MLXD_SOCKET"]
        self._front = self._loop.run_until_complete(self._begin(load_config(paths, environ), paths))
        self._trouble: list[str] = []
        self._loop.set_exception_handler(lambda _, context: self._trouble.append(repr(context)))
        self._log = LogReader(self._trouble)
        logging.getLogger("mlxd").addHandler(self._log)

    async def _begin(self, config: Config, paths: Paths) -> Front:
        front = Front(config, paths, open_listener(paths))
        ready = asyncio.Event()
        self._running = asyncio.ensure_future(front.run(ready.set))
        await ready.wait()
        return front

    def __call__(self, data: bytes) -> None:
        """Check that all requests end, that others are served, and that nothing leaks."""
        if any(isinstance(one, Request) and one.method in KEPT_OUT for one in decoded_all(data)):
            return
        self._loop.run_until_complete(self._exchange(data))
        assert not self._trouble, self._trouble

    async def _exchange(self, data: bytes) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(data)
            writer.write_eof()
            await asyncio.wait_for(_to_the_end(reader), ANSWER_S)
        except ConnectionError:
            pass  # disconnected, as expected
        finally:
            writer.close()
        bystander, other = await asyncio.open_unix_connection(self._path)
        other.write(encode(Request(1, "ping", {}), Encoding.JSON))
        assert b'"pong":true' in await asyncio.wait_for(bystander.readline(), ANSWER_S)
        other.close()
        await asyncio.wait_for(self._rest(), ANSWER_S)

    async def _rest(self) -> None:
        """Check that the engine only confirms the ends of requests without a caller."""
        services = self._front.services
        while len(services.connections) or len(services.requests):
            await asyncio.sleep(0)

    def close(self) -> None:
        self._front.services.lifecycle.begin_shutdown(0.0)
        self._loop.run_until_complete(self._running)
        self._front.accepting.listener.close()
        logging.getLogger("mlxd").removeHandler(self._log)
        self._loop.close()


def decoded_all(data: bytes) -> list[Any]:
    """Return the messages that a front would decode from these bytes."""
    decoder, found = Decoder(), []
    try:
        decoder.feed(data)
        for message in decoder:
            found.append(message)
    except ParseError:
        pass
    return found


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def front_target() -> FrontTarget:
    """Return a front in its own folder. It exists until the process ends."""
    return FrontTarget(Path(tempfile.mkdtemp(prefix="mlxd-")))


def target(name: str) -> Target:
    """Return a target by its name."""
    if name == "front":
        return front_target()
    return {"codec": codec, "methods": methods}[name]


NAMES = ("codec", "methods", "front")
CORPUS = Path(__file__).parents[1] / "corpus"


def kept(name: str) -> list[bytes]:
    """Return the kept inputs of a target. The file has one input per line, in hexadecimal."""
    lines = (CORPUS / f"{name}.txt").read_text(encoding="ascii").splitlines()
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]
