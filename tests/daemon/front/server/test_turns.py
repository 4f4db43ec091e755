"""Connections with large messages take turns, so that small requests pass between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mlxd.daemon.front.server.connection import Connection
from mlxd.daemon.front.server.turns import LARGE_MESSAGE_BYTES, MESSAGES_PER_TURN, Turns
from mlxd.protocol.codec import Encoding, Limits, encode
from mlxd.protocol.messages import Request

PIECE = 64 * 1024


class Options:
    """A socket that has options only: macOS gets larger buffers."""

    def setsockopt(self, *_: int) -> None:
        pass


class Pipe(asyncio.Transport):
    """A transport without a socket. Delivers bytes as asyncio does, unless reading is paused."""

    def __init__(self) -> None:
        super().__init__({"socket": Options()})
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass


class Caller:
    """A connection of the front, and what a caller sends on it."""

    def __init__(self, turns: Turns) -> None:
        self.handled: list[Request] = []
        self.pipe = Pipe()
        self.connection = Connection(
            1,
            Limits(),
            lambda _conn, message: self.handled.append(message),  # type: ignore[arg-type]
            lambda _conn: True,
            lambda _conn: None,
            lambda: None,
            memoryview(bytearray(PIECE)),
            turns,
        )
        self.connection.connection_made(self.pipe)

    def receive(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self.connection.get_buffer(-1)[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))


def in_event_loop(work: Callable[[], Any]) -> None:
    async def run() -> None:
        await work()

    asyncio.run(run())


MESSAGE = encode(Request(1, "chat", {"text": "x" * 2 * LARGE_MESSAGE_BYTES}), Encoding.MSGPACK)
PART = MESSAGE[:LARGE_MESSAGE_BYTES]


def test_one_large_message_is_continued_per_iteration_of_the_event_loop() -> None:
    async def work() -> None:
        turns = Turns()
        callers = [Caller(turns) for _ in range(3)]
        for caller in callers:
            caller.receive(PART)
        states = []
        for _ in range(4):
            states.append([caller.pipe.reading for caller in callers])
            await asyncio.sleep(0)
        assert states == [
            [False, False, False],
            [True, False, False],
            [True, True, False],
            [True, True, True],
        ]

    in_event_loop(work)


def test_a_small_message_waits_for_no_turn() -> None:
    async def work() -> None:
        turns = Turns()
        large, small = Caller(turns), Caller(turns)
        large.receive(PART)
        small.receive(encode(Request(1, "ping", {}), Encoding.MSGPACK))
        assert [one.method for one in small.handled] == ["ping"]
        assert small.pipe.reading

    in_event_loop(work)


def test_after_a_large_message_the_others_wait_as_long_as_it_took() -> None:
    async def work() -> None:
        turns = Turns()
        first, second = Caller(turns), Caller(turns)
        first.receive(PART)
        second.receive(PART)
        await asyncio.sleep(0)
        turns.rest(0.05)
        began_s = asyncio.get_running_loop().time()
        first.receive(MESSAGE[len(PART) :])
        assert len(first.handled) == 1
        turns.rest(0.05)  # as if it had taken so long
        while not second.pipe.reading:
            await asyncio.sleep(0)
        assert asyncio.get_running_loop().time() - began_s >= 0.05

    in_event_loop(work)


def test_many_small_messages_are_handled_a_few_at_a_time() -> None:
    async def work() -> None:
        turns = Turns()
        caller = Caller(turns)
        caller.receive(encode(Request(1, "ping", {}), Encoding.MSGPACK) * 3 * MESSAGES_PER_TURN)
        counts = []
        while not caller.pipe.reading:
            counts.append(len(caller.handled))
            await asyncio.sleep(0)
        assert counts == [MESSAGES_PER_TURN * turn for turn in (1, 2, 3)]

    in_event_loop(work)


def test_a_caller_who_leaves_while_it_waits_keeps_nobody_waiting() -> None:
    async def work() -> None:
        turns = Turns()
        gone, other = Caller(turns), Caller(turns)
        gone.receive(PART)
        other.receive(PART)
        gone.connection.connection_lost(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [other.pipe.reading, gone.pipe.reading] == [True, False]

    in_event_loop(work)
