"""The cost of a token between engine and client, in counts.

See test_per_start.py for what to do when a limit is exceeded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.engine.scheduling.scheduler import Entry, RequestQueue, Scheduler
from mlxd.daemon.front.server.events import EventQueue
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Notification, Request, Response
from support import needs
from support.counting import SystemCalls, instructions
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon, user
from support.engine_process import POCKET, EngineProcess, running_engine

TOKENS = 300
STREAMS, ANSWER = 8, 64
TRACED = "sendto,sendmsg,recvfrom,recvmsg,epoll_wait,epoll_pwait,epoll_ctl,poll,select,futex"
BYTES_PER_TOKEN = 75  # of one event; now 66 with short texts
LINK_BYTES_PER_TOKEN = 60  # from the engine to the front; now 47
QUEUE = RequestQueue(0, "pocket")
BESIDES = 60  # system calls of a connection, the engine's start and the shutdown


def tracing(log: Path) -> list[str]:
    """Return the command prefix that runs the daemon under strace, in the background (-D)."""
    return [needs.program("strace"), "-D", "-o", str(log), "-e", f"trace={TRACED}"]


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as running:
        yield running


def test_the_front_needs_one_wait_one_read_and_one_write_per_token(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with daemon_with_fake_engine("", tracing(log)) as daemon, daemon.peer() as peer:
        peer.call("chat", messages=user(f"{TOKENS} tokens"), stream=True)
        assert sum(event["type"] == "delta" for event in peer.events) > 0
    names = SystemCalls(log.read_text()).names
    assert names["sendto"] + names["sendmsg"] <= TOKENS + BESIDES
    assert names["recvfrom"] + names["recvmsg"] <= TOKENS + BESIDES
    assert names["epoll_wait"] + names["epoll_pwait"] <= TOKENS + 2 * BESIDES
    assert names["futex"] <= 4 * BESIDES


def test_streams_of_one_connection_share_their_writes(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with running_daemon(None, tracing(log), MLXD_PRELOAD="false") as daemon:
        stream_together(daemon)
    names = SystemCalls(log.read_text()).names
    # Answers may start and end in different steps: at most twice the steps.
    assert names["sendto"] + names["sendmsg"] <= 2 * ANSWER + STREAMS + BESIDES


def stream_together(daemon: Daemon) -> None:
    daemon.ask("load")
    params = {"max_tokens": ANSWER, "ignore_eos": True, "temperature": 0.0, "stream": True}
    with daemon.peer() as peer:
        asked = [
            Request(number + 1, "chat", {"messages": user(f"Say {number}."), **params})
            for number in range(STREAMS)
        ]
        peer.raw(b"".join(encode(one, Encoding.MSGPACK) for one in asked))  # they start together
        answers: dict[Any, Any] = {}
        while len(answers) < STREAMS:  # in whatever order they end
            message = peer.message()
            if isinstance(message, Response):
                answers[message.id] = message.result
    assert {one["usage"]["completion_tokens"] for one in answers.values()} == {ANSWER}


def test_a_token_is_sent_to_the_client_as_one_small_message() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        peer.call("chat", messages=user(f"{TOKENS} tokens"), stream=True)
    deltas = [event for event in peer.events if event["type"] == "delta"]
    size = sum(len(encode(Notification("event", one), Encoding.MSGPACK)) for one in deltas)
    assert len(deltas) <= TOKENS
    assert size <= BYTES_PER_TOKEN * TOKENS
    assert len(peer.events) - len(deltas) <= 3  # queued, loading, prefill


def test_a_step_of_many_streams_is_one_message_from_the_engine(engine: EngineProcess) -> None:
    engine.call("load", model={"name": "pocket", "path": str(POCKET)})
    before = len(engine.steps)
    params: dict[str, Any] = {"max_tokens": ANSWER, "ignore_eos": True}
    request_ids = [
        engine.submit(messages=[{"role": "user", "content": f"Say {number}."}], **params)
        for number in range(STREAMS)
    ]
    for request_id in request_ids:
        assert engine.result(request_id)["usage"]["completion_tokens"] == ANSWER
    decoding = [one for one in engine.steps[before:] if any(kind == "delta" for _, kind, _ in one)]
    assert len(decoding) <= 2 * ANSWER + STREAMS  # one per token would be eight times as many
    deltas = [one for step in decoding for one in step if one[1] == "delta"]
    size = len(encode(Notification("step", {"events": deltas}), Encoding.MSGPACK))
    assert size <= LINK_BYTES_PER_TOKEN * STREAMS * ANSWER


def test_a_cancel_is_confirmed_before_the_next_step(engine: EngineProcess) -> None:
    params: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}
    request_ids = [
        engine.submit(messages=[{"role": "user", "content": f"Go on, {number}."}], **params)
        for number in range(STREAMS)
    ]
    for request_id in request_ids:
        engine.wait_event(request_id, "delta")
    for request_id in request_ids:
        engine.cancel(request_id)
        assert engine.result(request_id)["error"]["code"] == "cancelled"
    ends = [step for step in engine.steps if any(kind == "error" for _, kind, _ in step)]
    # In a separate message: together with a step's events they would have waited for the step.
    assert all(kind == "error" for step in ends for _, kind, _ in step)


def test_forwarding_a_token_takes_few_instructions() -> None:
    step = Notification(
        "step", {"events": [[request_id, "delta", delta()] for request_id in range(1000)]}
    )
    packed = encode(step, Encoding.MSGPACK)

    def read() -> None:
        decoder = Decoder(trusted=True)
        decoder.feed(packed)
        assert len(list(decoder)) == 1

    assert instructions(read) <= 2000  # for a whole step; the rest runs in C
    event = Notification("event", {"id": 1, "type": "delta", **delta()})
    assert instructions(lambda: encode(event, Encoding.MSGPACK)) <= 150


def test_queueing_a_token_for_a_slow_reader_takes_constant_time() -> None:
    queue = EventQueue()

    def add(count: int) -> Callable[[], None]:
        def work() -> None:
            for _ in range(count):
                queue.add({"id": 1, "type": "delta", **delta()})

        return work

    instructions(add(10))
    early = instructions(add(100))
    add(5000)()
    assert instructions(add(100)) <= early
    assert early <= 100 * 150


def test_a_scheduler_turn_takes_few_instructions_per_running_sequence() -> None:
    few, many = (instructions(decoding(count).schedule) for count in (4, 32))
    assert few <= 2700
    assert many <= 8 * few


def test_a_scheduler_turn_with_many_waiting_prompts_takes_few_instructions() -> None:
    assert instructions(waiting(4).schedule) <= 6500
    assert instructions(waiting(100).schedule) <= 350_000  # a few milliseconds, once a turn at most


def waiting(count: int) -> Scheduler:
    """Return a scheduler with `count` waiting prompts of a hundred tokens each."""
    scheduler = Scheduler()
    for request_id in range(count):
        scheduler.add(Entry(request_id, QUEUE, conn=request_id, sequences=1, prompt_left=100))
    return scheduler


def decoding(count: int) -> Scheduler:
    """Return a scheduler with `count` running sequences."""
    scheduler = waiting(count)
    for request_id in range(count):
        scheduler.prefilled(request_id, 100)
    while scheduler.decoding_in(QUEUE) < count:
        scheduler.schedule()
    return scheduler


def delta() -> dict[str, Any]:
    return {"index": 0, "text": " word", "channel": "answer", "tokens": 1}
