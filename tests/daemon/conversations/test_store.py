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


def store_turn(store: Store, turn: Turn, text: str) -> None:
    store.finish(store.begin(turn), {"text": text}, USAGE)


def with_question(turn: Turn, text: str, **changes: str) -> Turn:
    return replace(turn, messages=[{"role": "user", "content": text}], **changes)


def test_a_continued_conversation_contains_all_its_messages(store: Store) -> None:
    store_turn(store, replace(ASK, system="Be brief."), "Hello Ada.")
    store_turn(store, with_question(ASK, "what is my name?"), "Ada.")
    history = store.history("last", "tty:1", "chat")
    assert (history.id, history.model) == ("aaaa", "pocket")
    assert [m["content"] for m in history.messages] == [
        "Be brief.", "my name is Ada", "Hello Ada.", "what is my name?", "Ada."
    ]  # fmt: skip


def test_last_is_resolved_per_terminal_or_folder(store: Store) -> None:
    store_turn(store, ASK, "mine")
    store_turn(store, with_question(ASK, "other", conversation="bbbb", scope="tty:2"), "theirs")
    assert store.history("last", "tty:1", "chat").id == "aaaa"
    assert store.history("last", "tty:2", "chat").id == "bbbb"
    with pytest.raises(InvalidParams, match="no conversation to continue in this terminal"):
        store.history("last", "tty:3", "chat")
    with pytest.raises(InvalidParams, match="no conversation to continue in this folder"):
        store.history("last", "dir:/tmp", "chat")


def test_continuing_a_conversation_moves_it_to_that_terminal(store: Store) -> None:
    store_turn(store, ASK, "one")
    store_turn(store, replace(ASK, scope="tty:2"), "two")
    assert store.history("last", "tty:2", "chat").id == "aaaa"


def test_a_chat_conversation_cannot_be_continued_by_generate(store: Store) -> None:
    store_turn(store, ASK, "one")
    with pytest.raises(InvalidParams, match="was created by chat"):
        store.history("aaaa", "", "generate")


def test_an_id_can_be_abbreviated_if_unambiguous(store: Store) -> None:
    store_turn(store, replace(ASK, conversation="abcd"), "one")
    store_turn(store, replace(ASK, conversation="abef"), "two")
    assert store.show("abc")["id"] == "abcd"
    with pytest.raises(InvalidParams, match="is ambiguous"):
        store.show("ab")
    with pytest.raises(InvalidParams, match="no conversation has the id 'zz'"):
        store.show("zz")


def test_a_turn_unfinished_at_a_crash_is_marked_broken(path: Path) -> None:
    first = Store(path)
    store_turn(first, ASK, "Hello Ada.")
    first.begin(with_question(ASK, "and now?"))
    # Not closed, as after a killed process.
    turns = Store(path).show("aaaa")["turns"]
    assert [(turn["state"], turn["answer"]) for turn in turns] == [
        ("done", "Hello Ada."),
        ("broken", ""),
    ]


def test_a_failed_turn_keeps_its_text_and_error(store: Store) -> None:
    store.fail(store.begin(ASK), "cancelled", "Hello A")
    (turn,) = store.show("aaaa")["turns"]
    assert (turn["state"], turn["error"], turn["answer"]) == ("broken", "cancelled", "Hello A")
    assert [m["content"] for m in store.history("aaaa", "", "chat").messages][-1] == "Hello A"


def test_a_failed_turn_without_text_is_left_out_of_the_history(store: Store) -> None:
    store.fail(store.begin(ASK), "engine_died", "")
    assert store.history("aaaa", "", "chat").messages == []


def test_search_matches_word_prefixes_across_a_whole_conversation(store: Store) -> None:
    store_turn(store, ASK, "Hello Ada.")
    store_turn(store, with_question(ASK, "a red fox", conversation="bbbb"), "It jumps.")
    assert [found["id"] for found in store.search("fox", 5)] == ["bbbb"]
    assert [found["id"] for found in store.search("jum", 5)] == ["bbbb"]
    assert store.search("fox Ada", 5) == []
    assert store.search('"; drop table', 5) == store.search("  ", 5) == []


def test_removed_text_is_deleted_from_search_and_disk(store: Store, path: Path) -> None:
    store_turn(store, with_question(ASK, "the secret word is xylophone"), "ok")
    assert store.remove("aaaa") == 1
    assert store.search("xylophone", 5) == []
    store.close()
    assert b"xylophone" not in path.read_bytes()


def test_truncate_removes_the_last_turns(store: Store) -> None:
    for text in ("one", "two", "three"):
        store_turn(store, with_question(ASK, text), text.upper())
    assert store.truncate("aaaa", 2) == 2
    assert [turn["answer"] for turn in store.show("aaaa")["turns"]] == ["ONE"]


def test_recent_is_newest_first_and_remove_deletes_all(store: Store) -> None:
    for name in ("one", "two"):
        store_turn(store, with_question(ASK, name, conversation=name), "x")
    assert [c["id"] for c in store.recent(9)] == ["two", "one"]
    assert [c["turns"] for c in store.recent(9)] == [1, 1]
    assert store.remove(None) == 2
    assert store.recent(9) == []


def test_the_database_is_readable_only_by_its_user(store: Store, path: Path) -> None:
    store_turn(store, ASK, "x")
    modes = {stat.S_IMODE(os.stat(file).st_mode) for file in path.parent.glob("conversations.db*")}
    assert modes == {0o600}


@pytest.mark.parametrize("damage", [b"garbage" * 1000, "header", "page"])
def test_a_damaged_database_is_renamed_and_a_new_one_created(
    path: Path, damage: bytes | str
) -> None:
    store = Store(path)
    store_turn(store, ASK, "x")
    store.close()
    whole = path.read_bytes()
    ruined = {"header": b"SQLite", "page": whole[:1024]}.get(str(damage), damage)
    assert isinstance(ruined, bytes)
    path.write_bytes(ruined)
    again = Store(path)
    assert again.damaged is not None
    assert again.damaged.read_bytes() == ruined
    store_turn(again, ASK, "new")
    assert len(again.show("aaaa")["turns"]) == 1


def damage_inside(path: Path, pages: int = 1) -> None:
    """Overwrite all but the first pages, which contain the schema."""
    whole = path.read_bytes()
    kept = 4096 * pages
    with path.open("r+b") as file:
        file.seek(kept)
        file.write(b"\xa5" * (len(whole) - kept))


def test_damage_after_the_first_page_is_detected(path: Path) -> None:
    store = Store(path)
    store_turn(store, ASK, "x")
    store.close()
    damage_inside(path, pages=2)
    again = Store(path)
    assert again.damaged is not None
    assert again.recent(9) == []
    again.close()


def test_damage_to_an_open_database_starts_a_new_one(path: Path) -> None:
    lines = []
    recorder = Recorder(path, lambda event, **fields: lines.append((event, fields)))

    async def story() -> list[Recording]:
        recordings = []
        for text in ("one", "two"):
            recordings.append(recorder.begin(with_question(ASK, text, conversation=text)))
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


def test_a_database_that_cannot_be_opened_is_an_error_with_a_hint(path: Path) -> None:
    path.mkdir(parents=True)
    recorder = Recorder(path, lambda *_event, **_fields: None)

    async def story() -> None:
        with pytest.raises(MlxdError, match="cannot be used: Is a directory") as caught:
            await recorder.call(lambda store: store.recent(9))
        assert "mlxd doctor" in caught.value.hint
        await recorder.close()

    asyncio.run(story())


def test_the_last_conversation_does_not_depend_on_the_clock(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_turn(store, with_question(ASK, "first", conversation="one"), "x")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    store_turn(store, with_question(ASK, "second", conversation="two"), "x")
    assert [found["id"] for found in store.recent(9)] == ["two", "one"]
    assert store.history("last", ASK.scope, ASK.kind).id == "two"


def test_a_database_of_a_newer_mlxd_is_refused_unchanged(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(MlxdError, match="newer version of mlxd"):
        Store(path)
    assert not list(path.parent.glob("*damaged*"))


def test_conversation_ids_are_unique() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_conversation_without_turns_is_still_the_last_one(store: Store) -> None:
    store_turn(store, ASK, "older")
    store_turn(store, with_question(ASK, "a secret", conversation="bbbb"), "x")
    assert store.truncate("bbbb", 9) == 1
    assert store.history("last", ASK.scope, "chat").id == "bbbb"
    assert [(found["id"], found["title"]) for found in store.recent(1)] == [("bbbb", "")]
    store_turn(store, with_question(ASK, "in its place", conversation="bbbb"), "y")
    assert store.recent(1)[0]["title"] == "in its place"


def test_a_database_of_an_older_mlxd_is_migrated(path: Path) -> None:
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
    """Replace the database by a copy that has other turns under the same numbers."""
    copy = Store(path.with_name("copy.db"))
    store_turn(copy, with_question(ASK, "restored", conversation="copied"), "from the copy")
    copy.close()
    path.with_name("copy.db").rename(path)


@pytest.mark.parametrize(
    ("change", "how", "kept"),
    [(remove, "removed", []), (replace_by_another, "replaced", ["copied"])],
)
def test_a_database_removed_or_replaced_while_open_is_detected(
    change: Callable[[Path], None], how: str, kept: list[str], path: Path
) -> None:
    """The running answer is stored in the new database, and no other turn is changed."""
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


def test_a_removed_database_is_detected_while_idle(path: Path) -> None:
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


def test_conversations_are_listed_in_pages(store: Store) -> None:
    names = [new_id() for _ in range(5)]
    for name in names:
        store_turn(store, replace(ASK, conversation=name), "Hello.")
    pages = [[one["id"] for one in store.recent(2, offset=start)] for start in (0, 2, 4, 6)]
    assert [name for page in pages for name in page] == names[::-1]


def test_imported_conversations_sort_before_existing_ones(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other.db")
    store_turn(other, replace(ASK, conversation="bbbb"), "Hello.")
    store_turn(other, replace(ASK, conversation="cccc"), "Hello.")
    store_turn(store, ASK, "Hello Ada.")
    records = [other.show(name) for name in ("bbbb", "cccc", "bbbb")]
    assert store.add(records) == 2
    assert store.add(records) == 0
    assert [one["id"] for one in store.recent(9)] == ["aaaa", "cccc", "bbbb"]
    assert store.history("last", "tty:1", "chat").id == "aaaa"
    assert len(store.search("Ada", 9)) == 3


def test_an_import_is_atomic(store: Store) -> None:
    store_turn(store, ASK, "Hello Ada.")
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
    store_turn(store, ASK, "Hello Ada.")
    for conversation in ("aaaa", "bbbb"):
        huge = with_question(
            ASK, f"{conversation} red green blue " * 300_000, conversation=conversation
        )
        number = store.begin(huge)
        store.fail(number, "context_overflow", "")
    assert [one["id"] for one in store.recent(9)] == ["aaaa"]
    assert [turn["answer"] for turn in store.show("aaaa")["turns"]] == ["Hello Ada."]
    assert not store.search("green", 9)
    assert file_bytes(path) < 2**20
    store.close()


def test_removed_conversations_give_their_space_back(path: Path) -> None:
    store = Store(path)
    store_turn(store, with_question(ASK, "red green blue " * 600_000), "Hello.")
    assert store.remove("aaaa") == 1
    assert file_bytes(path) < 2**20
    store.close()


def test_a_turn_that_was_refused_after_its_first_token_is_kept(store: Store) -> None:
    store.fail(store.begin(ASK), "invalid_params", "Hel")
    assert store.show("aaaa")["turns"][0]["answer"] == "Hel"
