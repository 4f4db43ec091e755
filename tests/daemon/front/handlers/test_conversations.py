"""Conversations over the socket, with a fake engine process."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlxd.daemon.models
from support.daemon_process import Daemon, daemon_with_fake_engine, user
from support.waiting import until

POCKET = Path(mlxd.daemon.models.__file__).parent / "pocket"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine() as running:
        yield running


def chat(daemon: Daemon, text: str, **params: Any) -> Any:
    return daemon.ask("chat", messages=user(text), **params)


def turns(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.ask("conversations.show", id=name)["turns"]
    return found


def test_a_stored_conversation_is_continued(daemon: Daemon) -> None:
    first = chat(daemon, "2 tokens", scope="tty:7")
    second = chat(daemon, "3 tokens", scope="tty:7", conversation="last")
    assert second["conversation"] == first["conversation"]
    found = turns(daemon, first["conversation"])
    assert [turn["messages"] for turn in found] == [user("2 tokens"), user("3 tokens")]
    assert [turn["answer"] for turn in found] == ["w0 w1 ", "w0 w1 w2 "]
    assert {turn["state"] for turn in found} == {"done"}


def test_a_terminal_scope_includes_the_boot(daemon: Daemon) -> None:
    chat(daemon, "1 tokens", scope="tty:7")
    (record,) = daemon.ask("conversations.list")["conversations"]
    assert record["scope"].startswith("tty:7:")
    assert len(daemon.ask("conversations.list", scope="tty:7")["conversations"]) == 1


@pytest.mark.parametrize("params", [{}, {"scope": "tty:7", "log": False}])
def test_requests_without_scope_or_with_log_false_are_not_stored(
    daemon: Daemon, params: dict[str, Any]
) -> None:
    assert "conversation" not in chat(daemon, "1 tokens", **params)
    assert daemon.ask("conversations.list") == {"conversations": []}


def test_the_setting_disables_storage_and_log_true_enables_it() -> None:
    with daemon_with_fake_engine(MLXD_CONVERSATIONS="false") as daemon:
        assert "conversation" not in chat(daemon, "1 tokens", scope="tty:7")
        assert chat(daemon, "1 tokens", log=True)["conversation"]


def test_a_given_history_stores_only_its_last_user_message(daemon: Daemon) -> None:
    first = chat(daemon, "1 tokens", conversation="new")
    messages = [
        {"role": "system", "content": "s"},
        *user("1 tokens"),
        {"role": "assistant", "content": "w0"},
        *user("2 tokens"),
    ]
    name = first["conversation"]
    daemon.ask("chat", messages=messages, conversation=name, history="given")
    assert [turn["messages"] for turn in turns(daemon, name)] == [
        user("1 tokens"),
        user("2 tokens"),
    ]


def test_generate_continues_the_last_text(daemon: Daemon) -> None:
    first = daemon.ask("generate", prompt="2 tokens ", scope="dir:/x")
    # The fake engine reads the first word of the whole prompt, so it must be the first text's.
    more = daemon.ask("generate", prompt=" and on", scope="dir:/x", conversation="last")
    assert more["usage"]["completion_tokens"] == 2
    assert more["conversation"] == first["conversation"]


def test_continuing_a_missing_conversation_is_an_error_with_a_hint(daemon: Daemon) -> None:
    error = chat(daemon, "hi", conversation="last", scope="tty:1")["error"]
    assert error["code"] == "invalid_params"
    assert "mlx log list" in error["hint"]
    assert chat(daemon, "hi", conversation="last")["error"]["data"] == {"param": "scope"}
    assert chat(daemon, "hi", conversation="nope")["error"]["code"] == "invalid_params"


def test_a_cancelled_answer_is_stored_as_broken(daemon: Daemon) -> None:
    with daemon.peer() as peer:
        running = peer.send("chat", messages=user("endless"), stream=True, scope="tty:1")
        peer.wait_event("delta")
        peer.notify("cancel", id=running)
        assert peer.answer(running)["error"]["code"] == "cancelled"
    (record,) = daemon.ask("conversations.list")["conversations"]
    (turn,) = turns(daemon, record["id"])
    assert (turn["state"], turn["error"]) == ("broken", "cancelled")
    assert turn["answer"].startswith("on ")


def test_a_killed_daemon_keeps_finished_turns(tmp_path: Path) -> None:
    with daemon_with_fake_engine() as daemon:
        name = chat(daemon, "2 tokens", conversation="new")["conversation"]
        with daemon.peer() as peer:
            peer.send("chat", messages=user("endless"), stream=True, conversation=name)
            peer.wait_event("delta")
            # Answers do not wait for the disk. Reading waits until both turns are written.
            assert turns(daemon, name)[0]["state"] == "done"
            daemon.stop(signal.SIGKILL)
        daemon.start()
        states = [(turn["state"], turn["answer"]) for turn in turns(daemon, name)]
    assert states == [("done", "w0 w1 "), ("broken", "")]


def test_a_damaged_database_is_renamed_and_the_daemon_continues(daemon: Daemon) -> None:
    state = daemon.folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    (state / "conversations.db").write_bytes(b"no database" * 999)
    assert chat(daemon, "1 tokens", conversation="new")["conversation"]
    assert len(list(state.glob("conversations.db.damaged-*"))) == 1
    assert any(line["event"] == "conversations damaged" for line in daemon.log_lines())


def test_an_answer_that_cannot_be_stored_arrives_with_a_note(daemon: Daemon) -> None:
    state = daemon.folder / "state"
    (state / "conversations.db").mkdir(parents=True)
    with daemon.peer() as peer:
        first = peer.call("chat", messages=user("9 tokens"), conversation="new")
    assert first["usage"]["completion_tokens"] == 9
    assert "conversation" not in first
    assert "not stored" in first["applied"]["notes"][0]
    assert daemon.ask("status")["conversations"]["problem"]


def test_a_slow_disk_does_not_delay_an_answer(daemon: Daemon) -> None:
    name = chat(daemon, "1 tokens", conversation="new")["conversation"]
    assert turns(daemon, name)[0]["answer"] == "w0 "  # read after the write, so it is finished
    with sqlite3.connect(daemon.folder / "state" / "conversations.db") as other:
        other.execute("BEGIN IMMEDIATE")  # blocks writes, like a very slow disk
        answer = chat(daemon, "2 tokens", conversation=name, history="given")
        assert answer["choices"][0]["text"] == "w0 w1 "
        assert "disk is slow" in answer["applied"]["notes"][0]
        other.rollback()
    other.close()
    assert [turn["answer"] for turn in turns(daemon, name)] == ["w0 ", "w0 w1 "]


def test_conversations_can_be_searched_truncated_and_removed(daemon: Daemon) -> None:
    name = chat(daemon, "1 tokens", conversation="new")["conversation"]
    chat(daemon, "2 tokens", conversation=name)
    hits = daemon.ask("conversations.search", query="tokens")["conversations"]
    assert [hit["id"] for hit in hits] == [name]
    assert daemon.ask("conversations.truncate", id=name) == {"removed": 1}
    assert len(turns(daemon, name)) == 1
    assert daemon.ask("conversations.remove", id=name) == {"removed": 1}
    assert daemon.ask("conversations.show", id=name)["error"]["code"] == "invalid_params"
    assert daemon.ask("conversations.remove")["error"]["code"] == "invalid_params"


def test_an_idle_daemon_opens_no_database(daemon: Daemon) -> None:
    daemon.ask("ping")
    pid = daemon.ask("status")["pid"]
    mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    assert "conversations.db" not in mapped  # SQLite maps its index file in WAL mode


def test_a_cancelled_turn_is_stored_before_the_engine_confirms() -> None:
    with daemon_with_fake_engine("deaf") as daemon:
        with daemon.peer() as peer:
            asked = peer.send("chat", messages=user("endless"), stream=True, scope="tty:1")
            name = peer.wait_event("queued")["conversation"]
            peer.wait_event("delta")
            peer.notify("cancel", id=asked)
            (turn,) = peer.call("conversations.show", id=name)["turns"]
        assert (turn["state"], turn["error"]) == ("broken", "cancelled")
        assert turn["answer"].startswith("on ")


def test_turns_are_stored_in_the_order_of_their_requests(daemon: Daemon) -> None:
    name = chat(daemon, "1 tokens", conversation="new")["conversation"]
    with daemon.peer() as peer:
        # Models looked up on disk, each by another spelling, and one that is known already.
        asked = []
        for at in range(12):
            model = {} if at % 3 == 2 else {"model": f"{'/.' * at}{POCKET}"}
            asked.append(peer.send("chat", messages=user(f"1 tokens {at}"), conversation=name,
                                   **model))  # fmt: skip
        for one in asked:
            peer.answer(one)
    questions = [turn["messages"][0]["content"] for turn in turns(daemon, name)]
    assert questions == ["1 tokens", *(f"1 tokens {at}" for at in range(12))]


def test_a_chat_continues_after_its_conversation_was_deleted(daemon: Daemon) -> None:
    name = chat(daemon, "1 tokens", conversation="new")["conversation"]
    daemon.ask("conversations.remove", id=name)
    answer = chat(daemon, "2 tokens", conversation=name, history="given")
    assert answer["conversation"] == name
    assert [turn["answer"] for turn in turns(daemon, name)] == ["w0 w1 "]


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_removed_or_replaced_database_is_reported_and_a_new_one_used(
    daemon: Daemon, how: str
) -> None:
    before = chat(daemon, "1 tokens", conversation="new")["conversation"]
    # Otherwise an answer not yet written would move into the new database.
    until(lambda: turns(daemon, before)[0]["answer"], "stored", 30)
    file = daemon.folder / "state" / "conversations.db"
    if how == "removed":
        file.unlink()
    else:
        file.with_name("empty").touch()
        file.with_name("empty").rename(file)
    until(lambda: daemon.ask("status")["conversations"]["notice"], "noticed", 30)
    assert how in daemon.ask("status")["conversations"]["notice"]
    assert any(line["event"] == f"conversations {how}" for line in daemon.log_lines())
    name = chat(daemon, "2 tokens", conversation="new")["conversation"]
    found = daemon.ask("conversations.list")["conversations"]
    assert [record["id"] for record in found] == [name]
