"""The core of both clients: every state, every input and every chunking."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.client.core import TRANSITIONS, Call, Connection, Input, State
from mlxd.client.timeouts import Timeouts
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import (
    Cancelled,
    ConnectionClosed,
    ModelNotFound,
    Overloaded,
    RequestTimeout,
)
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response

U, S, T, E = State.UNSENT, State.SENT, State.STREAMING, State.ENDED
TABLE = {
    #         WRITTEN EVENT ANSWER CANCEL TIMEOUT LOSS REFUSAL
    State.UNSENT: (S, U, U, E, E, U, E),
    State.SENT: (S, T, E, E, E, E, E),
    State.STREAMING: (T, T, E, E, E, E, E),
    State.ENDED: (E, E, E, E, E, E, E),
}
CASES = [
    (state, happened, following)
    for state, row in TABLE.items()
    for happened, following in zip(Input, row, strict=True)
]


def delta(call: Call, text: str = "on ") -> Notification:
    return Notification("event", {"id": call.id, "type": "delta", "text": text})


def methods(connection: Connection) -> list[str]:
    """Write everything, which is requests and notifications, and return their methods."""
    messages = write_all(connection)
    return [one.method for one in messages if not isinstance(one, Response)]


def write_all(connection: Connection) -> list[Message]:
    """Write everything; return the messages."""
    decoder = Decoder()
    while (rest := connection.outgoing) is not None:
        decoder.feed(bytes(rest))
        connection.written(len(rest))
    return [one for one in decoder if not isinstance(one, BadRequest)]


def receive(connection: Connection, *messages: Message) -> list[Call]:
    data = b"".join(encode(one, Encoding.MSGPACK) for one in messages)
    return connection.receive(data, 1.0)


def call_in(state: State) -> tuple[Connection, Call]:
    """Return a connection and a request in `state`, reached by real messages."""
    connection, call = Connection(), Call("chat", {}, Timeouts(total_s=5.0))
    connection.submit(call)
    if state is not State.UNSENT:
        write_all(connection)
    if state is State.STREAMING:
        receive(connection, delta(call))
    if state is State.ENDED:
        receive(connection, Response(call.id, None, 1))
    assert call.state is state
    return connection, call


ACTIONS: dict[Input, Any] = {
    Input.WRITTEN: lambda connection, call: write_all(connection),
    Input.EVENT: lambda connection, call: receive(connection, delta(call)),
    Input.ANSWER: lambda connection, call: receive(connection, Response(call.id, None, 1)),
    Input.CANCEL: lambda connection, call: connection.cancel(call),
    Input.TIMEOUT: lambda connection, call: connection.expire(call, 99.0),
    Input.LOSS: lambda connection, call: connection.lose("gone"),
    Input.REFUSAL: lambda connection, call: receive(
        connection, Response(None, Overloaded("full").to_map(), None)
    ),
}


@pytest.mark.parametrize(("state", "happened", "following"), CASES)
def test_every_state_transition_matches_the_table(
    state: State, happened: Input, following: State
) -> None:
    assert TRANSITIONS.get((state, happened), state) is following
    connection, call = call_in(state)
    ACTIONS[happened](connection, call)
    assert call.state is following
    assert call.ended == (call.result is not None or call.error is not None)


@pytest.mark.parametrize("again", list(Input))
@pytest.mark.parametrize("first", [one for one in Input if one is not Input.WRITTEN])
def test_an_ended_request_never_changes(first: Input, again: Input) -> None:
    connection, call = call_in(State.SENT)
    ACTIONS[first](connection, call)
    if not call.ended:
        return
    before = (call.result, call.error, len(call.events))
    ACTIONS[again](connection, call)
    assert (call.result, call.error, len(call.events)) == before


def test_an_answer_is_a_result_or_a_typed_error() -> None:
    connection, call = call_in(State.SENT)
    assert receive(connection, Response(call.id, None, {"a": 1})) == [call]
    assert (call.result, call.error) == ({"a": 1}, None)
    connection, call = call_in(State.SENT)
    receive(connection, Response(call.id, ModelNotFound("none").to_map(), None))
    assert isinstance(call.error, ModelNotFound)


def test_parameters_set_to_none_are_not_sent() -> None:
    connection = Connection()
    connection.submit(Call("load", {"model": None, "pin": True}))
    assert write_all(connection) == [Request(1, "load", {"pin": True})]


def test_an_unwritten_request_can_be_sent_on_another_connection() -> None:
    first, call = call_in(State.UNSENT)
    first.lose("gone")
    assert (call.state, call.error) == (State.UNSENT, None)
    second = Connection()
    second.submit(call)
    assert methods(second) == ["chat"]
    receive(second, Response(call.id, None, 7))
    assert call.result == 7


def test_a_lost_connection_error_states_if_the_request_may_have_run() -> None:
    connection, call = Connection(), Call("chat", {})
    connection.submit(call)
    connection.written(3)
    connection.lose("gone")
    assert isinstance(call.error, ConnectionClosed)
    assert (call.error.reason, call.error.may_have_been_executed) == ("gone", False)
    connection, call = call_in(State.SENT)
    connection.lose("gone")
    assert isinstance(call.error, ConnectionClosed)
    assert call.error.may_have_been_executed


def test_a_cancelled_request_notifies_the_daemon_and_ignores_its_answer() -> None:
    connection, call = call_in(State.STREAMING)
    connection.cancel(call)
    assert isinstance(call.error, Cancelled)
    assert write_all(connection) == [Notification("cancel", {"id": call.id})]
    assert receive(connection, delta(call), Response(call.id, None, 1)) == []


def test_a_request_cancelled_before_it_was_written_is_never_sent() -> None:
    connection, call = call_in(State.UNSENT)
    other = Call("ping", {})
    connection.submit(other)
    connection.cancel(call)
    assert methods(connection) == ["ping"]


def test_a_partly_written_request_is_completed_before_its_cancel() -> None:
    connection, call = Connection(), Call("chat", {})
    connection.submit(call)
    first = connection.outgoing
    assert first is not None
    begin = bytes(first[:5])
    connection.written(5)
    connection.cancel(call)
    decoder = Decoder()
    decoder.feed(begin)
    while (rest := connection.outgoing) is not None:
        decoder.feed(bytes(rest))
        connection.written(len(rest))
    assert list(decoder) == [
        Request(call.id, "chat", {}),
        Notification("cancel", {"id": call.id}),
    ]


LIMITS = [
    (Timeouts(total_s=2.0), None, 2.0, "total_s"),
    (Timeouts(total_s=2.0), 1.5, 2.0, "total_s"),
    (Timeouts(first_s=2.0), None, 2.0, "first_s"),
    (Timeouts(first_s=2.0), 1.5, None, ""),
    (Timeouts(idle_s=2.0), None, 2.0, "idle_s"),
    (Timeouts(idle_s=2.0), 1.5, 3.5, "idle_s"),
    (Timeouts(first_s=1.0, idle_s=2.0, total_s=9.0), None, 1.0, "first_s"),
    (Timeouts(), None, None, ""),
]


@pytest.mark.parametrize(("timeouts", "heard_s", "expected_s", "limit"), LIMITS)
def test_the_earliest_timeout_ends_a_request(
    timeouts: Timeouts, heard_s: float | None, expected_s: float | None, limit: str
) -> None:
    connection, call = Connection(), Call("chat", {}, timeouts)
    connection.submit(call)
    write_all(connection)
    call.heard_s = heard_s
    assert call.remaining_s(0.0) == expected_s
    if expected_s is None:
        assert not connection.expire(call, 1e9)
        return
    assert not connection.expire(call, expected_s - 0.001)
    assert connection.expire(call, expected_s)
    assert isinstance(call.error, RequestTimeout)
    assert call.error.data["limit"] == limit
    assert methods(connection) == ["cancel"]


def test_an_error_without_an_id_ends_the_connection_and_every_request() -> None:
    connection, call = call_in(State.SENT)
    unsent = Call("ping", {})
    connection.submit(unsent)
    ended = receive(connection, Response(None, Overloaded("full").to_map(), None))
    assert set(map(id, ended)) == {id(call), id(unsent)}
    assert isinstance(call.error, Overloaded)
    assert isinstance(unsent.error, Overloaded)
    assert connection.lost == "full"


def test_invalid_bytes_end_the_connection() -> None:
    connection, call = call_in(State.SENT)
    assert connection.receive(b"HTTP/1.1 400", 1.0) == [call]
    assert isinstance(call.error, ConnectionClosed)
    assert "not a message" in call.error.message
    assert connection.receive(b"more", 1.0) == []


def test_events_are_assigned_by_the_tag_of_their_request() -> None:
    connection, call = Connection(), Call("chat", {"tag": "mine"})
    connection.submit(call)
    write_all(connection)
    receive(connection, Notification("event", {"id": "mine", "type": "delta"}))
    receive(connection, Notification("event", {"id": ["odd"], "type": "delta"}))
    assert len(call.events) == 1
    receive(connection, Response(call.id, None, 1))
    assert not receive(connection, Notification("event", {"id": "mine", "type": "delta"}))


ANSWERS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), min_size=1, max_size=4,
    unique_by=lambda one: one[0],
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(answers=ANSWERS, data=st.data())
def test_any_interleaving_and_chunking_gives_the_same_results(
    answers: list[Any], data: st.DataObject
) -> None:
    connection = Connection()
    calls = [Call("chat", {"number": number}) for number in range(4)]
    for call in calls:
        connection.submit(call)
    write_all(connection)
    queues: list[list[Message]] = []
    for number, events, fails in answers:
        call = calls[number]
        end = Response(call.id, ModelNotFound("no").to_map() if fails else None, number)
        queues.append([*(delta(call, str(at)) for at in range(events)), end])
    order = data.draw(st.permutations([at for at, one in enumerate(queues) for _ in one]))
    positions = [iter(one) for one in queues]
    stream = b"".join(encode(next(positions[at]), Encoding.MSGPACK) for at in order)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    for begin, end_at in itertools.pairwise([0, *cuts, len(stream)]):
        connection.receive(stream[begin:end_at], 1.0)
    for number, events, fails in answers:
        call = calls[number]
        assert [event["text"] for event in call.events] == [str(at) for at in range(events)]
        assert isinstance(call.error, ModelNotFound) == fails
        assert call.ended
    others = {number for number, _, _ in answers}
    assert all(not call.ended for at, call in enumerate(calls) if at not in others)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_writing_in_pieces_sends_the_same_bytes(sizes: list[int]) -> None:
    whole, pieces = Connection(), Connection()
    for connection in (whole, pieces):
        for number in range(3):
            connection.submit(Call("chat", {"number": number}))
    expected = write_all(whole)
    decoder = Decoder()
    for size in itertools.cycle(sizes):
        if (rest := pieces.outgoing) is None:
            break
        decoder.feed(bytes(rest[:size]))
        pieces.written(min(size, len(rest)))
    assert list(decoder) == expected
