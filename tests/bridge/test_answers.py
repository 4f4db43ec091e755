"""When the headers go out, and signs of life while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import h11
import pytest
from hypothesis import given
from hypothesis.strategies import lists, text

from mlxd.client.aio import AsyncStream
from mlxd.http import answers
from mlxd.http.dialects import openai_chat
from mlxd.protocol.errors import EngineDied, MlxdError
from support.answers_of import PREFILL, choice, delta, result

QUEUED = {"type": "queued", "position": 3}
WAIT = {"type": "wait"}


class Events:
    """The events of a request: `WAIT` passes only after a sign of life was sent."""

    def __init__(self, *events: dict[str, Any], error: MlxdError | None = None) -> None:
        self._events = [*events]
        self._error = error
        self.alive = asyncio.Event()

    async def __anext__(self) -> dict[str, Any]:
        if self._events and self._events[0] is WAIT:
            await self.alive.wait()
            self._events.pop(0)
        if self._events:
            return self._events.pop(0)
        raise StopAsyncIteration

    async def result(self) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        return result(choice("x"))


async def pieces(events: Events) -> AsyncIterator[bytes]:
    writer = openai_chat.ChatWriter("m", include_usage=False)
    stream = cast("AsyncStream[dict[str, Any], dict[str, Any]]", events)
    async for data in answers.pieces(writer, stream):
        yield data
        events.alive.set()


def collected(*events: dict[str, Any]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [data async for data in pieces(Events(*events))]

    return asyncio.run(collect())


def test_nothing_is_sent_while_the_request_is_queued() -> None:
    async def first() -> None:
        async for _ in pieces(Events(QUEUED, error=EngineDied("gone"))):
            raise AssertionError("sent too early")

    with pytest.raises(EngineDied):
        asyncio.run(first())


def test_text_is_sent_as_it_comes() -> None:
    assert len(collected(QUEUED, PREFILL, delta("a"), delta("b"))) == 3


@pytest.mark.parametrize("before", [(), (QUEUED,), (QUEUED, PREFILL), (PREFILL, delta("a"))])
def test_silence_is_broken_by_signs_of_life(
    before: tuple[dict[str, Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SILENCE_S", 0.01)
    data = b"".join(collected(*before, WAIT, delta("b")))
    assert data.count(b'"content":""') >= 1
    assert data.index(b'"content":""') < data.index(b'"content":"b"')


def test_progress_of_the_prompt_is_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SILENCE_S", 0.01)
    assert b'"content":""' in b"".join(collected(PREFILL, WAIT, PREFILL, delta("a")))


def test_the_bridges_own_limit_is_not_noted() -> None:
    given = result(choice("x"), notes=("max_tokens lowered to 5", "other"))
    own = openai_chat.plan({"messages": [{"role": "user", "content": "x"}], "max_tokens": 9})
    default = openai_chat.plan({"messages": [{"role": "user", "content": "x"}]})
    assert answers.notes_of(given, own) == ["max_tokens lowered to 5", "other"]
    assert answers.notes_of(given, default) == ["other"]


def test_notes_cannot_add_headers() -> None:
    header = answers.note_headers(("ignored: a\r\nset-cookie: x", "b"))["x-mlxd-notes"]
    assert "\n" not in header
    assert header.endswith("; b")


@given(notes=lists(text(min_size=1), max_size=6))
def test_any_note_becomes_a_header_that_http_accepts(notes: list[str]) -> None:
    for name, value in answers.note_headers(notes).items():
        h11.Response(status_code=200, headers=[(name.encode(), value.encode("latin-1"))])
        assert value.isprintable()


@pytest.mark.parametrize("odd", ["a ", " ", "", "\x00", "a\x0b", "a\x1b[31m", "a\x7f", "é"])
def test_a_note_with_an_odd_name_becomes_printable_ascii(odd: str) -> None:
    value = answers.note_headers((f"ignored: {odd}",))["x-mlxd-notes"]
    assert value == value.strip()
    assert all(" " <= char <= "~" for char in value)
    h11.Response(status_code=200, headers=[("x-mlxd-notes", value)])


def test_a_long_list_of_notes_is_truncated_with_their_number() -> None:
    notes = [f"ignored: field{number:05}" for number in range(5000)]
    value = answers.note_headers(notes)["x-mlxd-notes"]
    assert len(value) < 2100
    assert value.endswith("... (5000 notes)")
