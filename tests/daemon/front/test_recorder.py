"""The recorder with a real database that another program has locked."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon.conversations import store
from mlxd.daemon.front import recorder
from mlxd.daemon.front.recorder import Recorder, Recording

NAME = "c-1"


class EventLog:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append(event)


USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


@pytest.fixture(autouse=True)
def brief_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_S", 0.01)


async def begin(one: Recorder, question: str) -> Recording:
    messages = [{"role": "user", "content": question}]
    recording = one.begin(store.Turn("chat", NAME, "", None, "pocket", messages))
    await asyncio.wrap_future(recording.begun)
    return recording


def finish(one: Recorder, recording: Recording, text: str) -> dict[str, Any]:
    result = {"choices": [{"text": text}], "usage": USAGE, "applied": {"notes": []}}
    one.finish(recording, result)
    return result


async def answers(one: Recorder) -> list[tuple[str, str]]:
    found = await one.call(lambda opened: opened.show(NAME))
    return [(turn["state"], turn["answer"]) for turn in found["turns"]]


@pytest.mark.parametrize("how", ["read", "close"])
def test_an_answer_is_written_later_if_the_database_is_locked(how: str, tmp_path: Path) -> None:
    async def session() -> None:
        path = tmp_path / "conversations.db"
        one = Recorder(path, EventLog())
        whole, broken = await begin(one, "whole"), await begin(one, "broken")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert finish(one, whole, "all of it")["conversation"] == NAME
        broken.parts.append("half of")
        one.fail(broken, "engine_died")
        # Reading needs no lock, and shows what is on disk.
        assert await answers(one) == [("answering", ""), ("answering", "")]
        assert "locked" in one.problem
        other.execute("ROLLBACK")
        other.close()
        if how == "close":
            await one.close()
            with sqlite3.connect(path) as db:
                rows = db.execute("SELECT state, answer FROM turns ORDER BY number").fetchall()
            db.close()
        else:
            rows = await answers(one)
            assert one.problem == ""
            await one.close()
        assert rows == [("done", "all of it"), ("broken", "half of")]

    asyncio.run(session())


def test_the_oldest_unwritten_answers_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "UNWRITTEN_MOST", 2)
    log = EventLog()

    async def session() -> None:
        path = tmp_path / "conversations.db"
        one = Recorder(path, log)
        turns = [await begin(one, f"question {at}") for at in range(3)]
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for at, turn in enumerate(turns):
            finish(one, turn, f"answer {at}")
        await answers(one)
        other.execute("ROLLBACK")
        other.close()
        assert await answers(one) == [("answering", ""), ("done", "answer 1"), ("done", "answer 2")]
        await one.close()

    asyncio.run(session())
    assert log.events.count("answer not stored") == 1
