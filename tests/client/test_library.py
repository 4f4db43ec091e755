"""The client library with the real daemon: typed methods, results as records and as maps."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlxd.client
import mlxd.protocol
from mlxd.client import (
    AsyncClient,
    Client,
    ConnectionClosed,
    Delta,
    Event,
    ModelNotFound,
    Record,
    aio_methods,
    sync_methods,
)
from mlxd.client.events import KINDS, event_of
from mlxd.client.results import Completion, Status
from mlxd.protocol.errors import ParseError
from mlxd.protocol.methods import METHODS
from support.daemon_process import Daemon, daemon_with_fake_engine, running_daemon
from support.waiting import until

COUNT = "Count from 3 to 7."
ANSWER = "3, 4, 5, 6, 7"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.socket_path) as connected:
        yield connected


def test_a_completion_has_typed_fields_and_is_a_map(client: Client) -> None:
    done = client.chat(COUNT, temperature=0, system="Be brief.")
    assert done.text == done.choices[0].text == done["choices"][0]["text"]
    assert done.usage.completion_tokens == done["usage"]["completion_tokens"] > 0
    assert done.applied.model == "pocket"
    assert done.applied.notes == tuple(done["applied"]["notes"])
    assert done.timing.decode_s >= 0
    assert json.loads(json.dumps(done.to_dict())) == done
    with pytest.raises(AttributeError):
        done.usage = None  # type: ignore[misc, assignment]


def test_a_stream_yields_typed_events_and_ends_with_the_completion(client: Client) -> None:
    with client.stream_chat(COUNT, temperature=0) as stream:
        events = list(stream)
        done = stream.result
    assert all(isinstance(event, Event) for event in events)
    texts = [one.text for one in events if isinstance(one, Delta)]
    assert "".join(texts) == done.text == ANSWER
    assert "".join(client.stream_chat(COUNT, temperature=0).texts()) == ANSWER


def test_client_methods_return_their_types(client: Client) -> None:
    assert client.ping()
    assert client.hello().server == "mlxd"
    tokens = client.tokenize("hello")
    assert client.detokenize(tokens) == "hello"
    assert client.generate(tokens, max_tokens=1).usage.completion_tokens == 1
    assert client.fill("def add(a, b):\n    return ", max_tokens=2, temperature=0).text
    assert client.prefill(prompt="hello").usage.prompt_tokens == len(tokens)
    assert client.load().model == "pocket"
    assert client.ps()[0].model == "pocket"
    assert client.status().requests.running == 0
    assert client.status().models[0].pinned is False
    assert "mlxd_" in client.metrics()
    assert "pocket" in [model.name for model in client.models.list().models]
    assert client.models.show().parameters
    client.models.alias("small", "pocket")
    assert client.models.list().aliases == {"small": "pocket"}
    client.models.alias("small")
    assert client.models.set_default("pocket").in_effect == "pocket"
    with pytest.raises(ModelNotFound):
        client.chat("hi", model="no-such-model")


def test_conversation_methods_return_their_types(client: Client) -> None:
    done = client.chat(COUNT, temperature=0, conversation="new", log=True)
    assert done.conversation is not None
    shown = client.conversations.show(done.conversation)
    assert isinstance(shown.turns, tuple)
    assert shown.turns[0].answer == ANSWER
    assert client.conversations.list(limit=1)[0].id == done.conversation
    assert client.conversations.search("Count")[0].id == done.conversation
    assert client.conversations.truncate(done.conversation) == 1
    assert client.conversations.remove(done.conversation) == 1


def test_the_asyncio_client_returns_the_same_results(daemon: Daemon) -> None:
    async def work() -> None:
        async with AsyncClient(daemon.socket_path) as client:
            done, status = await asyncio.gather(client.chat(COUNT, temperature=0), client.status())
            assert (done.text, status.state) == (ANSWER, "ready")
            texts = [text async for text in client.stream_chat(COUNT, temperature=0).texts()]
            assert "".join(texts) == ANSWER
            assert (await client.models.show()).name == "pocket"
            assert await client.conversations.search("nothing-like-this") == ()

    asyncio.run(work())


def test_leaving_a_loop_over_a_stream_cancels_the_request_in_the_daemon() -> None:
    with daemon_with_fake_engine() as daemon, Client(daemon.socket_path) as client:
        for _ in client.stream_chat("endless").texts():
            break
        until(lambda: not client.status().requests.running, "the request still runs", 20)


def test_cancelling_a_task_cancels_the_request_in_the_daemon() -> None:
    async def work(path: str) -> None:
        async with AsyncClient(path) as client:
            task = asyncio.create_task(client.chat("endless"))
            while not (await client.status()).requests.running:
                pass
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            while (await client.status()).requests.running:
                pass

    with daemon_with_fake_engine() as daemon:
        asyncio.run(asyncio.wait_for(work(daemon.socket_path), 20))


def test_tool_calls_are_events_with_their_own_call_id() -> None:
    with daemon_with_fake_engine() as daemon, Client(daemon.socket_path) as client:
        events = list(client.stream_chat("mixed"))
    (call,) = [one for one in events if one.type == "tool_call"]
    assert (call["call_id"], call["name"]) == ("call_0", "f")


def test_a_client_reconnects_after_the_daemon_was_killed() -> None:
    with daemon_with_fake_engine() as daemon, Client(daemon.socket_path) as client:
        stream = client.stream_chat("endless")
        while next(stream).type != "delta":
            pass
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(ConnectionClosed) as caught:
            _ = stream.result
        assert caught.value.may_have_been_executed
        daemon.start()
        assert client.ping()


# ---- records


def test_both_clients_have_the_same_methods() -> None:
    pairs = (
        (sync_methods.Methods, aio_methods.AsyncMethods),
        (sync_methods.Models, aio_methods.AsyncModels),
        (sync_methods.Conversations, aio_methods.AsyncConversations),
        (Client, AsyncClient),
    )
    own = {"connect", "close", "aclose"}
    for blocking, asynchronous in pairs:
        ours, theirs = (
            {name: value for name, value in vars(kind).items() if name[0] != "_"} for kind in
            (blocking, asynchronous)
        )  # fmt: skip
        assert ours.keys() - own == theirs.keys() - own
        for name in ours.keys() - own:
            if inspect.isfunction(ours[name]):
                assert inspect.getdoc(ours[name]) == inspect.getdoc(theirs[name]), name
                assert list(inspect.signature(ours[name]).parameters) == list(
                    inspect.signature(theirs[name]).parameters
                )


def test_every_protocol_method_has_a_typed_client_method() -> None:
    missing = set()
    for name in METHODS.keys() - {"cancel"}:
        group, _, method = name.rpartition(".")
        kind: Any = {
            "": sync_methods.Methods,
            "models": sync_methods.Models,
            "conversations": sync_methods.Conversations,
        }[group]
        renamed = {
            "models.default": "set_default",
            "models.import": "import_models",
            "conversations.import": "import_conversations",
        }
        method = renamed.get(name, method)
        if not hasattr(kind, method):
            missing.add(name)
    assert not missing


def test_records_keep_unknown_keys_and_default_missing_ones() -> None:
    done = Completion.of({"choices": [{"text": "a", "new": 1}], "newer": {"b": 2}})
    assert (done["newer"], done.choices[0]["new"]) == ({"b": 2}, 1)
    assert (done.usage.prompt_tokens, done.applied.notes, done.conversation) == (0, (), None)
    assert Completion.of({}).text == ""
    assert Status.of({"state": None}).state == ""
    assert event_of({"id": 1, "type": "from-the-future", "x": 2})["x"] == 2
    assert dict(done) == done.to_dict()
    assert len(done) == 2


def test_a_result_that_is_no_map_is_a_parse_error() -> None:
    with pytest.raises(ParseError):
        Completion.of([])


def test_every_event_class_is_a_record() -> None:
    assert all(issubclass(kind, Record) for kind in KINDS.values())


def test_packages_contain_a_py_typed_marker() -> None:
    for package in (mlxd.client, mlxd.protocol):
        assert Path(str(package.__file__)).with_name("py.typed").exists()
