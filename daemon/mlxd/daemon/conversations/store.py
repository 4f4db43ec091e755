"""The database of stored conversations. Blocking, for one thread (`mlxd.daemon.front.recorder`).

A turn consists of the messages since the last answer, and the answer. It is written with the state
`answering` when it begins, and updated when it ends. If the daemon is killed, finished turns are
intact, and the interrupted turn can be recognised.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxd.daemon.conversations.schema import migrate
from mlxd.daemon.conversations.search import hits, parse, snippet
from mlxd.daemon.conversations.space import GIVE_BACK_BYTES, give_back
from mlxd.protocol.errors import InvalidParams, MlxdError

Message = dict[str, Any]
Record = dict[str, Any]

ID_LETTERS = 8
ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""Thirty-two characters that are easy to tell apart."""
# By the numbers of turns, because the clock may be set back.
NEWEST_FIRST = "ORDER BY latest DESC, updated DESC, id"
TITLE_CHARACTERS = 80
BUSY_S = 5.0
SUFFIXES = ("", "-wal", "-shm")
"""Suffixes of the database, its write-ahead log, and the index of the log."""

REFUSED = frozenset({"context_overflow", "invalid_params", "constraint_invalid"})
"""Errors of requests that no model answered. Their prompts may be large, and are removed."""
NOT_FOUND_HINT = "List the conversations: mlx log list"


@dataclass(frozen=True, slots=True)
class Turn:
    """The messages that a request adds to a conversation, which is created if needed."""

    kind: str
    conversation: str
    scope: str
    system: str | None
    model: str
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class History:
    """The id, model and messages of a conversation that is continued."""

    id: str
    model: str
    messages: list[Message] = field(default_factory=list)


def new_id() -> str:
    """Return a random id that is easy to type."""
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in os.urandom(ID_LETTERS))


def is_id(text: str) -> bool:
    """Return whether a text has the form of a complete id."""
    return len(text) == ID_LETTERS and set(text) <= set(ALPHABET)


class Store:
    """An open database. `damaged` is the new path of a damaged one that it replaced, or None."""

    def __init__(self, path: Path) -> None:
        self.damaged: Path | None = None
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            self.damaged = _put_aside(path)
            self._db = self._open()
        self._files = {suffix: _identity(path, suffix) for suffix in SUFFIXES}

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            # Takes effect in a new database. `give_back` converts an old one.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            # WAL: readers do not wait, and there is one fsync per checkpoint instead of one per
            # turn.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {GIVE_BACK_BYTES}")
            db.execute("PRAGMA foreign_keys = ON")
            # Overwrites deleted rows, so that a deleted conversation is gone from the file.
            db.execute("PRAGMA secure_delete = ON")
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            migrate(db)
            # The daemon that wrote these turns died before they were complete.
            db.execute("UPDATE turns SET state = 'broken', error = 'engine_died' "
                       "WHERE state = 'answering'")  # fmt: skip
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        self._db.close()

    def lost(self) -> str:
        """Return "removed" or "replaced" if the path is no longer the open file, otherwise ""."""
        try:
            about = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return "removed"
        except OSError:
            return ""  # unknown
        return "" if (about.st_dev, about.st_ino) == self._files[""] else "replaced"

    def abandon(self) -> None:
        """Close a database whose file was removed or replaced, and remove its side files.

        SQLite would use a remaining write-ahead log for the new file.
        """
        self._db.close()
        for suffix in SUFFIXES[1:]:
            mine = self._files[suffix]
            if mine is not None and _identity(self._path, suffix) == mine:
                with contextlib.suppress(OSError):
                    _side_file(self._path, suffix).unlink()

    def replaced(self) -> Store:
        """Rename this damaged database, and return a new one in its place."""
        self.close()
        damaged = _put_aside(self._path)
        store = Store(self._path)
        store.damaged = damaged
        return store

    # ---- writing

    def begin(self, turn: Turn) -> int:
        """Store a turn that has begun, and return its number."""
        now = time.time()
        name = turn.conversation
        question = "\n".join(_text(message) for message in turn.messages)
        with self._transaction():
            self._create(turn, question, now)
            row = self._db.execute(
                "INSERT INTO turns (conversation, state, model, created, messages, question, "
                "answer, reasoning, tool_calls, usage) "
                "VALUES (?, 'answering', ?, ?, ?, ?, '', '', '[]', '{}')",
                (name, turn.model, now, json.dumps(turn.messages), question),
            )
            self._db.execute(
                "UPDATE conversations SET updated = ?, model = ?, scope = coalesce(?, scope), "
                "system = coalesce(?, system), latest = ? WHERE id = ?",
                (now, turn.model, turn.scope or None, turn.system, row.lastrowid, name),
            )
        assert row.lastrowid is not None
        return row.lastrowid

    def finish(self, number: int, choice: dict[str, Any], usage: dict[str, Any]) -> None:
        """Complete a turn with the first choice of the result."""
        self._db.execute(
            "UPDATE turns SET state = 'done', answer = ?, reasoning = ?, tool_calls = ?, usage = ? "
            "WHERE number = ?",
            (
                choice["text"],
                choice.get("reasoning") or "",
                json.dumps(choice.get("tool_calls") or []),
                json.dumps(usage),
                number,
            ),
        )

    def fail(self, number: int, code: str, partial: str) -> None:
        """Mark a turn that ended with an error, or remove it if the request was refused.

        `partial` is the text up to then.
        """
        if code in REFUSED and not partial:
            self._remove_turn(number)
            return
        self._db.execute(
            "UPDATE turns SET state = 'broken', error = ?, answer = ? WHERE number = ?",
            (code, partial, number),
        )

    def _remove_turn(self, number: int) -> None:
        """Remove a turn, and its conversation if it has no other."""
        (size,) = self._db.execute(
            "SELECT coalesce(max(length(question)), 0) FROM turns WHERE number = ?", (number,)
        ).fetchone()
        with self._transaction():
            self._db.execute(
                "DELETE FROM conversations WHERE id = (SELECT conversation FROM turns "
                "WHERE number = ?) AND (SELECT count(*) FROM turns WHERE conversation = id) = 1",
                (number,),
            )
            self._db.execute("DELETE FROM turns WHERE number = ?", (number,))
            if size >= GIVE_BACK_BYTES:  # rewriting the index is not worth it for less
                self._forget_words()
        give_back(self._db)

    def truncate(self, name: str, turns: int) -> int:
        """Remove the last turns of a conversation, and return their number."""
        found = self._find(name)["id"]
        with self._transaction():
            gone = self._db.execute(
                "DELETE FROM turns WHERE number IN (SELECT number FROM turns "
                "WHERE conversation = ? ORDER BY number DESC LIMIT ?)",
                (found, turns),
            )
            # The title is the text of the first turn, so it is removed with that turn.
            self._db.execute(
                "UPDATE conversations SET title = '' WHERE id = ? AND NOT EXISTS "
                "(SELECT 1 FROM turns WHERE conversation = conversations.id)",
                (found,),
            )
        return gone.rowcount

    def remove(self, name: str | None) -> int:
        """Delete one conversation, or all for None, and return their number."""
        found = None if name is None else self._find(name)["id"]
        with self._transaction():
            gone = self._db.execute(
                "DELETE FROM conversations WHERE ? IS NULL OR id = ?", (found, found)
            )
            self._forget_words()
        give_back(self._db)
        return gone.rowcount

    def add(self, records: list[Record]) -> int:
        """Store conversations that `show` returned elsewhere, the oldest first.

        Known ids are skipped. Returns how many were stored, all of them or none.
        """
        with self._transaction():
            known = {row[0] for row in self._db.execute("SELECT id FROM conversations")}
            new = []
            for record in records:
                if record["id"] not in known:
                    known.add(record["id"])
                    new.append(record)
            # Below every number in use: what was used here last stays the latest.
            (lowest,) = self._db.execute(
                "SELECT min(coalesce(min(number), 0), (SELECT coalesce(min(latest), 0) "
                "FROM conversations)) FROM turns"
            ).fetchone()
            number = lowest - sum(len(one["turns"]) + 1 for one in new)
            for record in new:
                self._add(record, number)
                number += len(record["turns"]) + 1
        return len(new)

    def _add(self, record: Record, number: int) -> None:
        self._db.execute(
            "INSERT INTO conversations (id, kind, scope, title, system, model, created, updated, "
            "latest) VALUES (:id, :kind, :scope, :title, :system, :model, :created, :updated, "
            ":latest)",
            {**record, "latest": number + len(record["turns"])},
        )
        for place, turn in enumerate(record["turns"], number):
            broken = turn["state"] == "answering"  # nobody answers it any more
            coded = {key: json.dumps(turn[key]) for key in ("messages", "tool_calls", "usage")}
            self._db.execute(
                "INSERT INTO turns (number, conversation, state, error, model, created, messages, "
                "question, answer, reasoning, tool_calls, usage) VALUES (:number, :conversation, "
                ":state, :error, :model, :created, :messages, :question, :answer, :reasoning, "
                ":tool_calls, :usage)",
                {
                    **turn,
                    **coded,
                    "state": "broken" if broken else turn["state"],
                    "error": "engine_died" if broken else turn["error"],
                    "number": place,
                    "conversation": record["id"],
                    "question": "\n".join(_text(message) for message in turn["messages"]),
                },
            )

    # ---- reading

    def history(self, wanted: str, scope: str, kind: str) -> History:
        """Return a conversation to continue. `wanted` is an id, its beginning, or `last` (in the
        scope).

        Raises:
            InvalidParams: no such conversation exists, or it is of another kind.
        """
        found = self._last(scope, kind) if wanted == "last" else self._find(wanted)
        if found["kind"] != kind:
            raise InvalidParams(
                "conversation", f"{found['id']} was created by {found['kind']}, not by {kind}",
                hint=NOT_FOUND_HINT,
            )  # fmt: skip
        messages: list[Message] = []
        if found["system"]:
            messages.append({"role": "system", "content": found["system"]})
        for turn in self._turns(found["id"]):
            # A turn without any answer is left out.
            if turn["answer"] or turn["tool_calls"]:
                messages += turn["messages"]
                messages.append(_answer(turn))
        return History(found["id"], found["model"], messages)

    def recent(self, limit: int, scope: str | None = None, offset: int = 0) -> list[Record]:
        """Return up to `limit` conversations, newest first."""
        rows = self._db.execute(
            "SELECT c.*, (SELECT count(*) FROM turns WHERE conversation = c.id) AS turns "
            f"FROM conversations c WHERE ? IS NULL OR scope = ? {NEWEST_FIRST} LIMIT ? OFFSET ?",
            (scope, scope, limit, offset),
        )
        return _records(rows)

    def show(self, name: str) -> Record:
        """Return one conversation with its turns.

        Raises:
            InvalidParams: no such conversation exists.
        """
        found = self._find(name)
        return {**found, "turns": self._turns(found["id"])}

    def search(self, text: str, limit: int) -> list[Record]:
        """Return conversations with a turn that contains all words, best match first.

        Words match by prefix. In scripts without spaces, and with symbols such as emoji, any part
        of a word matches.
        """
        query = parse(text)
        if not query:
            return []
        sql, values = hits(query)
        rows = self._db.execute(
            f"WITH hits AS MATERIALIZED ({sql}), "
            "best AS (SELECT t.conversation, hits.*, row_number() OVER "
            "(PARTITION BY t.conversation ORDER BY hits.rank, t.number DESC) AS place "
            "FROM hits JOIN turns t USING (number)) "
            "SELECT c.*, best.question AS snippet, best.answer, "
            "(SELECT count(*) FROM turns WHERE conversation = c.id) AS turns "
            "FROM best JOIN conversations c ON c.id = best.conversation WHERE place = 1 "
            "ORDER BY best.rank, c.latest DESC LIMIT ?",
            (*values, limit),
        )
        found = _records(rows)
        for record in found:
            record["snippet"] = snippet([record["snippet"], record.pop("answer")], text)
        return found

    # ---- inside

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # SQLite may have rolled back already, for instance on a full disk.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _forget_words(self) -> None:
        # The index contains deleted words until it is rewritten.
        self._db.execute("INSERT INTO words (words) VALUES ('optimize')")

    def _create(self, turn: Turn, question: str, now: float) -> None:
        title = " ".join(question.split())[:TITLE_CHARACTERS]
        new = (turn.conversation, turn.kind, turn.scope, title, turn.system, turn.model, now, now)
        self._db.execute(
            "INSERT INTO conversations (id, kind, scope, title, system, model, created, updated) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET title = excluded.title WHERE title = ''",
            new,
        )

    def _find(self, name: str) -> Record:
        rows = self._db.execute(
            "SELECT * FROM conversations WHERE substr(id, 1, ?) = ? LIMIT 2", (len(name), name)
        )
        found = _records(rows)
        if not name or not found:
            raise InvalidParams("id", f"no conversation has the id {name!r}", hint=NOT_FOUND_HINT)
        if len(found) > 1 and found[0]["id"] != name:
            raise InvalidParams(
                "id",
                f"{name!r} is ambiguous",
                hint="Use more characters of the id. List the ids: mlx log list",
            )
        return found[0]

    def _last(self, scope: str, kind: str) -> Record:
        rows = self._db.execute(
            f"SELECT * FROM conversations c WHERE scope = ? AND kind = ? {NEWEST_FIRST} LIMIT 1",
            (scope, kind),
        )
        found = _records(rows)
        if not found:
            where = "terminal" if scope.startswith("tty:") else "folder"
            raise InvalidParams(
                "conversation", f"no conversation to continue in this {where}",
                hint="Ask without -c, or list the conversations: mlx log list",
            )  # fmt: skip
        return found[0]

    def _turns(self, name: str) -> list[Record]:
        rows = self._db.execute(
            "SELECT * FROM turns WHERE conversation = ? ORDER BY number", (name,)
        )
        turns = _records(rows)
        for turn in turns:
            for key in ("messages", "tool_calls", "usage"):
                turn[key] = json.loads(turn[key])
            del turn["question"], turn["conversation"]
        return turns


def _records(rows: sqlite3.Cursor) -> list[Record]:
    names = [column[0] for column in rows.description]
    records = [dict(zip(names, row, strict=True)) for row in rows]
    for record in records:
        record.pop("latest", None)  # used for sorting only
    return records


def _text(message: Message) -> str:
    """Return the text of a message, whose content may be text, a list of parts, or None."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _answer(turn: Record) -> Message:
    answer: Message = {"role": "assistant", "content": turn["answer"]}
    if turn["tool_calls"]:
        answer["tool_calls"] = turn["tool_calls"]
    return answer


def _side_file(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _identity(path: Path, suffix: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, or None if it does not exist."""
    try:
        about = os.stat(_side_file(path, suffix))
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _put_aside(path: Path) -> Path:
    """Rename a damaged database and its side files. Returns the new path."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    kept = path.with_name(f"{path.name}.damaged-{stamp}-{os.getpid()}")
    path.rename(kept)
    for suffix in SUFFIXES[1:]:
        side = _side_file(path, suffix)
        if side.exists():
            side.rename(kept.with_name(kept.name + suffix))
    return kept


def is_damage(exc: Exception) -> bool:
    """Return whether an error means that the file is malformed or not a database.

    A full disk or missing permissions have other classes of errors.
    """
    return type(exc) is sqlite3.DatabaseError


def explain(exc: Exception) -> str:
    """Return a short reason why a conversation cannot be stored or read."""
    if isinstance(exc, MlxdError):
        return exc.message
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
    if isinstance(exc, sqlite3.OperationalError):
        return str(exc)  # such as: database or disk is full
    text = str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
