"""Stored conversations, on a real database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mlxd.daemon.conversations.schema import MIGRATIONS
from mlxd.daemon.conversations.store import Store, Turn, new_id
from mlxd.daemon.front.recorder import Recorder, Recording
from mlxd.protocol.errors import InvalidParams, MlxdError

ASK = Turn("chat", "aaaa", "tty:1", None, "pocket", [{"role": "user", "content": "my name is Ada"}])
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "conversations.db"


@pytest.fixture
def store(path: Path) -> Store:
    return Store(path)


def answered(store: Store, turn: Turn, text: str) -> None:
    store.finish(store.begin(turn), {"text": text}, USAGE)


def asked(turn: Turn, text: str, **changes: str) -> Turn:
    return replace(turn, messages=[{"role": "user", "content": text}], **changes)


def test_a_conversation_is_continued_with_all_that_was_said(store: Store) -> None:
    answered(store, replace(ASK, system="Be brief."), "Hello Ada.")
    answered(store, asked(ASK, "what is my name?"), "Ada.")
    history = store.history("last", "tty:1", "chat")
    assert (history.id, history.model) == ("aaaa", "pocket")
    assert [m["content"] for m in history.messages] == [
        "Be brief.", "my name is Ada", "Hello Ada.", "what is my name?", "Ada."
    ]  # fmt: skip


def test_last_means_the_last_of_this_terminal(store: Store) -> None:
    answered(store, ASK, "mine")
    answered(store, asked(ASK, "other", conversation="bbbb", scope="tty:2"), "theirs")
    assert store.history("last", "tty:1", "chat").id == "aaaa"
    assert store.history("last", "tty:2", "chat").id == "bbbb"
    with pytest.raises(InvalidParams, match="no conversation to continue in this terminal"):
        store.history("last", "tty:3", "chat")
    with pytest.raises(InvalidParams, match="no conversation to continue in this folder"):
        store.history("last", "dir:/tmp", "chat")


def test_a_conversation_moves_to_where_it_is_continued(store: Store) -> None:
    answered(store, ASK, "one")
    answered(store, replace(ASK, scope="tty:2"), "two")
    assert store.history("last", "tty:2", "chat").id == "aaaa"


def test_text_and_chat_are_not_mixed(store: Store) -> None:
    answered(store, ASK, "one")
    with pytest.raises(InvalidParams, match="was created by chat"):
        store.history("aaaa", "", "generate")


def test_an_id_may_be_shortened_while_it_is_clear(store: Store) -> None:
    answered(store, replace(ASK, conversation="abcd"), "one")
    answered(store, replace(ASK, conversation="abef"), "two")
    assert store.show("abc")["id"] == "abcd"
    with pytest.raises(InvalidParams, match="is ambiguous"):
        store.show("ab")
    with pytest.raises(InvalidParams, match="no conversation has the id 'zz'"):
        store.show("zz")


def test_a_daemon_that_was_killed_leaves_finished_turns_and_a_broken_one(path: Path) -> None:
    first = Store(path)
    answered(first, ASK, "Hello Ada.")
    first.begin(asked(ASK, "and now?"))
    # No close: what a killed process leaves.
    turns = Store(path).show("aaaa")["turns"]
    assert [(turn["state"], turn["answer"]) for turn in turns] == [
        ("done", "Hello Ada."),
        ("broken", ""),
    ]


def test_what_broke_off_keeps_its_words_and_its_reason(store: Store) -> None:
    store.fail(store.begin(ASK), "cancelled", "Hello A")
    (turn,) = store.show("aaaa")["turns"]
    assert (turn["state"], turn["error"], turn["answer"]) == ("broken", "cancelled", "Hello A")
    assert [m["content"] for m in store.history("aaaa", "", "chat").messages][-1] == "Hello A"


def test_a_turn_without_a_word_is_not_sent_again(store: Store) -> None:
    store.fail(store.begin(ASK), "engine_died", "")
    assert store.history("aaaa", "", "chat").messages == []


def test_search_finds_whole_conversations_by_the_beginnings_of_words(store: Store) -> None:
    answered(store, ASK, "Hello Ada.")
    answered(store, asked(ASK, "a red fox", conversation="bbbb"), "It jumps.")
    assert [found["id"] for found in store.search("fox", 5)] == ["bbbb"]
    assert [found["id"] for found in store.search("jum", 5)] == ["bbbb"]
    assert store.search("fox Ada", 5) == []
    assert store.search('"; drop table', 5) == store.search("  ", 5) == []


def test_search_forgets_what_was_removed(store: Store, path: Path) -> None:
    answered(store, asked(ASK, "the secret word is xylophone"), "ok")
    assert store.remove("aaaa") == 1
    assert store.search("xylophone", 5) == []
    store.close()
    assert b"xylophone" not in path.read_bytes()


def test_truncate_takes_the_last_turns(store: Store) -> None:
    for text in ("one", "two", "three"):
        answered(store, asked(ASK, text), text.upper())
    assert store.truncate("aaaa", 2) == 2
    assert [turn["answer"] for turn in store.show("aaaa")["turns"]] == ["ONE"]


def test_recent_is_newest_first_and_removed_all(store: Store) -> None:
    for name in ("one", "two"):
        answered(store, asked(ASK, name, conversation=name), "x")
    assert [c["id"] for c in store.recent(9)] == ["two", "one"]
    assert [c["turns"] for c in store.recent(9)] == [1, 1]
    assert store.remove(None) == 2
    assert store.recent(9) == []


def test_only_the_user_can_read_it(store: Store, path: Path) -> None:
    answered(store, ASK, "x")
    modes = {stat.S_IMODE(os.stat(file).st_mode) for file in path.parent.glob("conversations.db*")}
    assert modes == {0o600}


@pytest.mark.parametrize("damage", [b"garbage" * 1000, "header", "page"])
def test_a_damaged_database_is_kept_aside(path: Path, damage: bytes | str) -> None:
    store = Store(path)
    answered(store, ASK, "x")
    store.close()
    whole = path.read_bytes()
    ruined = {"header": b"SQLite", "page": whole[:1024]}.get(str(damage), damage)
    assert isinstance(ruined, bytes)
    path.write_bytes(ruined)
    again = Store(path)
    assert again.damaged is not None
    assert again.damaged.read_bytes() == ruined
    answered(again, ASK, "new")
    assert len(again.show("aaaa")["turns"]) == 1


def damage_inside(path: Path, pages: int = 1) -> None:
    """Leave the first pages, which hold the schema, and ruin the rest."""
    whole = path.read_bytes()
    kept = 4096 * pages
    with path.open("r+b") as file:
        file.seek(kept)
        file.write(b"\xa5" * (len(whole) - kept))


def test_damage_behind_the_first_page_is_noticed_too(path: Path) -> None:
    store = Store(path)
    answered(store, ASK, "x")
    store.close()
    damage_inside(path, pages=2)
    again = Store(path)
    assert again.damaged is not None
    assert again.recent(9) == []
    again.close()


def test_damage_that_shows_while_it_is_open_begins_a_new_database(path: Path) -> None:
    lines = []
    recorder = Recorder(path, lambda event, **fields: lines.append((event, fields)))

    async def story() -> list[Recording]:
        recordings = []
        for text in ("one", "two"):
            recordings.append(recorder.begin(asked(ASK, text, conversation=text)))
            await recorder.call(lambda store: store.recent(9))
            await recorder.call(ruin)
        found = await recorder.call(lambda store: store.recent(9))
        assert [record["id"] for record in found] == ["two"]
        await recorder.close()
        return recordings

    def ruin(store: Store) -> None:
        if not lines:
            # On the connection that is about to fail, which nothing else may use.
            store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001
            damage_inside(path, pages=0)
            store._db.execute("PRAGMA shrink_memory")  # noqa: SLF001

    recordings = asyncio.run(story())
    assert [recording.problem for recording in recordings] == ["", ""]
    assert recorder.problem == ""
    assert [event for event, _ in lines] == ["conversations damaged"]
    assert list(path.parent.glob("*.damaged-*"))


def test_what_cannot_be_opened_is_an_error_in_words(path: Path) -> None:
    path.mkdir(parents=True)
    recorder = Recorder(path, lambda *_event, **_fields: None)

    async def story() -> None:
        with pytest.raises(MlxdError, match="cannot be used: Is a directory") as caught:
            await recorder.call(lambda store: store.recent(9))
        assert "mlxd doctor" in caught.value.hint
        await recorder.close()

    asyncio.run(story())


def test_the_last_one_is_the_last_though_the_clock_was_set_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(store, asked(ASK, "first", conversation="one"), "x")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    answered(store, asked(ASK, "second", conversation="two"), "x")
    assert [found["id"] for found in store.recent(9)] == ["two", "one"]
    assert store.history("last", ASK.scope, ASK.kind).id == "two"


def test_a_database_of_a_newer_mlxd_is_left_alone(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(MlxdError, match="newer version of mlxd"):
        Store(path)
    assert not list(path.parent.glob("*damaged*"))


def test_ids_differ() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_conversation_whose_turns_were_all_taken_back_stays_the_last_one(store: Store) -> None:
    answered(store, ASK, "older")
    answered(store, asked(ASK, "a secret", conversation="bbbb"), "x")
    assert store.truncate("bbbb", 9) == 1
    assert store.history("last", ASK.scope, "chat").id == "bbbb"
    assert [(found["id"], found["title"]) for found in store.recent(1)] == [("bbbb", "")]
    answered(store, asked(ASK, "in its place", conversation="bbbb"), "y")
    assert store.recent(1)[0]["title"] == "in its place"


def test_a_database_of_an_earlier_mlxd_is_brought_up_to_date(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path, isolation_level=None) as db:
        db.executescript(f"BEGIN; {MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
        for number, name in enumerate(("one", "two", "three"), 1):
            db.execute(
                "INSERT INTO conversations VALUES (?, 'chat', '', ?, NULL, 'pocket', 1, 1)",
                (name, name),
            )
            if name != "three":
                db.execute(
                    "INSERT INTO turns VALUES (?, ?, 'done', NULL, 'pocket', 1, '[]', '我的密码', "
                    "'x', '', '[]', '{}')",
                    (number, name),
                )
    db.close()
    store = Store(path)
    assert [found["id"] for found in store.recent(9)] == ["two", "one", "three"]
    assert [found["id"] for found in store.search("密码", 9)] == ["two", "one"]


def remove(path: Path) -> None:
    path.unlink()


def replace_by_another(path: Path) -> None:
    """As when somebody restores a copy: a database that has other turns under the same numbers."""
    copy = Store(path.with_name("copy.db"))
    answered(copy, asked(ASK, "restored", conversation="copied"), "from the copy")
    copy.close()
    path.with_name("copy.db").rename(path)


@pytest.mark.parametrize(
    ("change", "how", "kept"),
    [(remove, "removed", []), (replace_by_another, "replaced", ["copied"])],
)
def test_a_database_that_is_removed_or_replaced_is_noticed(
    change: Callable[[Path], None], how: str, kept: list[str], path: Path
) -> None:
    """The answer that is under way is stored in the next one, and no other turn is touched."""
    events: list[str] = []
    recorder = Recorder(path, lambda event, **_fields: events.append(event))
    result = {"choices": [{"text": "whole"}], "usage": USAGE, "applied": {"notes": []}}

    async def story() -> None:
        recording = recorder.begin(ASK)
        await asyncio.wrap_future(recording.begun)
        change(path)
        recorder.finish(recording, result)
        found = await recorder.call(lambda store: store.recent(9))
        assert [record["id"] for record in found] == ["aaaa", *kept]
        (turn,) = await recorder.call(lambda store: store.show("aaaa")["turns"])
        assert (turn["answer"], turn["state"]) == ("whole", "done")
        for name in kept:
            (turn,) = (await recorder.call(partial(Store.show, name=name)))["turns"]
            assert turn["answer"] == "from the copy"
        await recorder.close()

    asyncio.run(story())
    assert events == [f"conversations {how}"]
    assert how in recorder.status()["notice"]
    assert Store(path).show("aaaa")["turns"]


def test_a_removed_database_is_noticed_while_nobody_uses_it(path: Path) -> None:
    recorder = Recorder(path, lambda *_event, **_fields: None)

    async def story() -> None:
        recorder.look()
        await recorder.call(lambda store: store.recent(9))
        remove(path)
        recorder.look()
        recorder.look()
        await recorder.close()

    asyncio.run(story())
    assert "removed" in recorder.notice
    assert not path.exists()
    assert not list(path.parent.glob("*-wal"))


def test_conversations_are_listed_by_pages(store: Store) -> None:
    names = [new_id() for _ in range(5)]
    for name in names:
        answered(store, replace(ASK, conversation=name), "Hello.")
    pages = [[one["id"] for one in store.recent(2, offset=start)] for start in (0, 2, 4, 6)]
    assert [name for page in pages for name in page] == names[::-1]


def test_imported_conversations_are_older_than_those_that_are_here(
    store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other.db")
    answered(other, replace(ASK, conversation="bbbb"), "Hello.")
    answered(other, replace(ASK, conversation="cccc"), "Hello.")
    answered(store, ASK, "Hello Ada.")
    records = [other.show(name) for name in ("bbbb", "cccc", "bbbb")]
    assert store.add(records) == 2
    assert store.add(records) == 0
    assert [one["id"] for one in store.recent(9)] == ["aaaa", "cccc", "bbbb"]
    assert store.history("last", "tty:1", "chat").id == "aaaa"
    assert len(store.search("Ada", 9)) == 3


def test_an_import_is_whole_or_not_at_all(store: Store) -> None:
    answered(store, ASK, "Hello Ada.")
    record = {**store.show("aaaa"), "id": "bbbb"}
    with pytest.raises(sqlite3.Error):
        store.add([record, {**record, "id": "cccc", "model": None}])
    assert [one["id"] for one in store.recent(9)] == ["aaaa"]


def file_bytes(path: Path) -> int:
    return sum(one.stat().st_size for one in path.parent.iterdir())


@pytest.mark.parametrize("old_version", [False, True])
def test_a_refused_prompt_leaves_neither_a_turn_nor_its_space(
    path: Path, old_version: bool
) -> None:
    if old_version:
        path.parent.mkdir(parents=True)
        with sqlite3.connect(path) as db:
            db.executescript("PRAGMA auto_vacuum = NONE; CREATE TABLE x (y); DROP TABLE x;")
        db.close()
    store = Store(path)
    answered(store, ASK, "Hello Ada.")
    for conversation in ("aaaa", "bbbb"):
        huge = asked(ASK, f"{conversation} red green blue " * 300_000, conversation=conversation)
        number = store.begin(huge)
        store.fail(number, "context_overflow", "")
    assert [one["id"] for one in store.recent(9)] == ["aaaa"]
    assert [turn["answer"] for turn in store.show("aaaa")["turns"]] == ["Hello Ada."]
    assert not store.search("green", 9)
    assert file_bytes(path) < 2**20
    store.close()


def test_removed_conversations_give_their_space_back(path: Path) -> None:
    store = Store(path)
    answered(store, asked(ASK, "red green blue " * 600_000), "Hello.")
    assert store.remove("aaaa") == 1
    assert file_bytes(path) < 2**20
    store.close()


def test_a_turn_that_was_refused_after_its_first_token_is_kept(store: Store) -> None:
    store.fail(store.begin(ASK), "invalid_params", "Hel")
    assert store.show("aaaa")["turns"][0]["answer"] == "Hel"
