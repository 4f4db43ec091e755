"""Callers with different habits: patient, hasty, slow, disconnecting, and some that send
garbage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mlxd.protocol.codec import Encoding, encode
from mlxd.protocol.messages import Request
from soaking import mix
from soaking.ledger import Ledger
from soaking.wire import Call, Wire

NO_DAEMON_PAUSE_S = 0.1
THINK_S = 0.2
GARBAGE_HOLD_S = 4.0
ENDS_WAIT_S = 600.0
"""The garbage may begin with a valid request, which is answered before the connection is closed."""
CONVERSATION_TURNS = 4
HUB_MODEL = "acme/Pocket-8bit"
PULL_PAUSE_S = (5.0, 25.0)


@dataclass(slots=True)
class World:
    """State that all callers share. While `gate` is closed, they finish their requests and wait."""

    path: str
    ledger: Ledger
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False
    busy: int = 0
    texts: dict[str, Any] = field(default_factory=dict)
    turns: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, conversation, answer) of each turn that the daemon reported as stored."""
    habits: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> bool:
        return self.gate.is_set() and not self.over

    @contextlib.asynccontextmanager
    async def session(self) -> Any:
        """Wait for the gate, and count as busy until the end of the block."""
        await self.gate.wait()
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1


async def caller(world: World, rng: Random) -> None:
    """Run one caller: one session after another, each with its own connection."""
    while not world.over:
        async with world.session():
            if world.over:
                return
            habit = rng.choices(
                (ordinary, cancelling, vanishing, slow, half_closing, conversing),
                (50, 14, 10, 8, 6, 12),
            )[0]
            world.habits[habit.__name__] += 1
            wire = Wire(world.ledger, rng.choice([*Encoding]), slow=habit is slow)
            try:
                await wire.connect(world.path)
            except OSError:
                world.habits["found no daemon"] += 1
                await asyncio.sleep(NO_DAEMON_PAUSE_S)
                continue
            with contextlib.suppress(ConnectionError):
                await habit(world, rng, wire)
            await wire.close()
        await asyncio.sleep(rng.random() * THINK_S)


# ---- habits


async def ordinary(world: World, rng: Random, wire: Wire) -> None:
    """Send some requests, one after another or concurrently, and check each answer."""
    for _ in range(rng.randint(1, 4)):
        if not world.open:
            return
        asks = [mix.choose(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        calls = [wire.send(ask.method, *ask.allowed, **ask.params) for ask in asks]
        for call, ask in zip(calls, asks, strict=True):
            await looked_at(world, wire, call, ask)


async def cancelling(world: World, rng: Random, wire: Wire) -> None:
    """Cancel requests: at once or during the answer, by id or tag, by request or notification."""
    for _ in range(rng.randint(1, 3)):
        if not world.open:
            return
        call = wire.send("generate", "cancelled", prompt="On and on", max_tokens=400,
                         ignore_eos=True, stream=True, tag=f"t{rng.random()}")  # fmt: skip
        if rng.random() < 0.7:
            await call.begun.wait()
        name = {"id": call.id} if rng.random() < 0.5 else {"tag": call.params["tag"]}
        if rng.random() < 0.5:
            wire.notify("cancel", **name)
        else:
            await wire.result(wire.send("cancel", **name))
        await wire.result(call)


async def vanishing(world: World, rng: Random, wire: Wire) -> None:
    """Disconnect while requests are running."""
    calls = []
    for _ in range(rng.randint(1, 3)):
        ask = mix.choose(rng)
        calls.append(wire.send(ask.method, *ask.allowed, **ask.params))
    if rng.random() < 0.6:
        await asyncio.wait([asyncio.ensure_future(call.begun.wait()) for call in calls],
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
    wire.abort()


async def slow(world: World, rng: Random, wire: Wire) -> None:
    """Read more slowly than the daemon sends."""
    ask = mix.Ask("generate", {"prompt": "Long ago", "max_tokens": 64, "ignore_eos": True,
                               "logprobs": 5, "stream": True})  # fmt: skip
    await looked_at(world, wire, wire.send(ask.method, **ask.params), ask)


async def half_closing(world: World, rng: Random, wire: Wire) -> None:
    """Close the sending side and keep reading, as `printf … | nc -N -U …` does."""
    ask = mix.choose(rng)
    call = wire.send(ask.method, *ask.allowed, **ask.params)
    wire.send_eof()
    await looked_at(world, wire, call, ask)


async def conversing(world: World, rng: Random, wire: Wire) -> None:
    """Continue a conversation that the daemon stores."""
    conversation = "new"
    for _ in range(rng.randint(1, CONVERSATION_TURNS)):
        if not world.open:
            return
        question = f"My name is {rng.choice(mix.NAMES)}. Say {rng.choice(mix.WORDS)}."
        call = wire.send("chat", messages=mix.user(question), conversation=conversation,
                         max_tokens=16, stream=rng.random() < 0.5)  # fmt: skip
        result = await wire.result(call)
        if "error" in result:
            return
        notes = result["applied"]["notes"]
        if "conversation" not in result:
            world.ledger.violate(f"{call.entry} is not stored: {notes}")
            return
        conversation = result["conversation"]
        world.turns.append((time.monotonic(), conversation, result["choices"][0]["text"]))


async def looked_at(world: World, wire: Wire, call: Call, ask: mix.Ask) -> None:
    """Wait for an answer and check it."""
    result = await wire.result(call)
    if "error" in result:
        return
    if wrong := mix.problem(call, ask, result):
        world.ledger.violate(f"{call.entry}: {wrong}")
    if ask.same:
        said = mix.essence(result)
        first = world.texts.setdefault(ask.same, said)
        if said != first:
            applied = result.get("applied")
            world.ledger.violate(
                f"{call.entry}: {ask.same!r} gave {first!r} before, now {said!r}; {applied}"
            )


# ---- peers that send no valid requests


def deep(depth: int) -> bytes:
    return b"\x94\x00\x01\xa4chat\x91" + b"\x91" * depth


def anything(rng: Random) -> bytes:
    """Return bytes that are not a valid message."""
    request = encode(Request(1, "chat", {"messages": mix.user("hello")}), Encoding.MSGPACK)
    spoilt = bytearray(request)
    spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return rng.choice(
        (
            os.urandom(rng.randint(1, 4000)),
            request[: rng.randrange(1, len(request))],
            bytes(spoilt),
            b"\x94\x00\x01\xc6" + struct.pack(">I", 2**31) + b"x" * 100,
            b"\x94\x00\x01\xdd" + struct.pack(">I", 2**32 - 1),
            deep(rng.choice((10, 100, 5000))),
            b'{"jsonrpc":"2.0","id":1,"method":"chat","params":{"messages":"' + b"y" * 20_000,
            b'{"jsonrpc":"2.0","id":1,"method":null}\n{]\n',
            b"[" * 10_000,
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x93\x02\xa5event\x91\x80" * 50,
        )
    )


async def stranger(world: World, rng: Random) -> None:
    """Send garbage, whole or byte by byte, or nothing. Then stay connected or disconnect."""
    while not world.over:
        async with world.session():
            with contextlib.suppress(OSError):
                await _bother(world, rng)
        await asyncio.sleep(rng.random())


async def _bother(world: World, rng: Random) -> None:
    reader, writer = await asyncio.open_unix_connection(world.path)
    manner = rng.choice(("at once", "byte by byte", "silent", "waits"))
    world.habits[f"garbage, {manner}"] += 1
    data = b"" if manner == "silent" else anything(rng)
    try:
        if manner == "byte by byte":
            for place in range(min(len(data), 20)):
                writer.write(data[place : place + 1])
                await writer.drain()
                await asyncio.sleep(GARBAGE_HOLD_S / 20)
        else:
            writer.write(data)
        if manner == "waits":
            writer.write_eof()
            await _until_hung_up(world, reader)
        elif manner == "silent":
            await asyncio.sleep(rng.random() * GARBAGE_HOLD_S)
    finally:
        writer.transport.abort()


async def _until_hung_up(world: World, reader: asyncio.StreamReader) -> None:
    """The daemon must close the connection of a peer that closed its sending side, whatever it sent
    before."""
    try:
        await asyncio.wait_for(_drained(reader), ENDS_WAIT_S)
    except TimeoutError:
        world.ledger.violate("a peer that had closed its side was never hung up on")


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


# ---- downloads


async def librarian(world: World, rng: Random) -> None:
    """Download a model and delete it, repeatedly. A process of its own does each step."""
    while not world.over:
        async with world.session():
            wire = Wire(world.ledger, rng.choice([*Encoding]))
            with contextlib.suppress(OSError):
                await wire.connect(world.path)
                await _fetch_and_delete(world, wire)
                await wire.close()
        await asyncio.sleep(rng.uniform(*PULL_PAUSE_S))


async def _fetch_and_delete(world: World, wire: Wire) -> None:
    world.habits["librarian"] += 1
    pulled = await wire.result(wire.send("models.pull", model=HUB_MODEL, stream=True))
    if "error" in pulled:
        return
    removed = await wire.result(wire.send("models.remove", model=HUB_MODEL))
    if "error" not in removed and not removed["bytes"]:
        world.ledger.violate("a model that was fetched held nothing when it was deleted")
