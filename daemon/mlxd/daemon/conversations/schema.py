"""The database schema, as a list of migrations. Each database stores how many were applied."""

from __future__ import annotations

import sqlite3

from mlxd.protocol.errors import MlxdError

MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,        -- chat | generate
        scope TEXT NOT NULL,       -- the terminal or folder it belongs to; '' for none
        title TEXT NOT NULL,
        system TEXT,
        model TEXT NOT NULL,
        created REAL NOT NULL,     -- seconds since the epoch
        updated REAL NOT NULL
    );
    CREATE INDEX conversations_by_scope ON conversations (scope, updated);
    CREATE INDEX conversations_by_time ON conversations (updated);
    CREATE TABLE turns (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        state TEXT NOT NULL,       -- answering | done | broken
        error TEXT,                -- code of the error that broke it
        model TEXT NOT NULL,
        created REAL NOT NULL,
        messages TEXT NOT NULL,    -- JSON; a prompt is one message without a role
        question TEXT NOT NULL,    -- text of the messages, for the search
        answer TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        tool_calls TEXT NOT NULL,  -- JSON
        usage TEXT NOT NULL        -- JSON
    );
    CREATE INDEX turns_by_conversation ON turns (conversation, number);
    CREATE VIRTUAL TABLE words USING fts5 (
        question, answer, content='turns', content_rowid='number', tokenize='unicode61'
    );
    CREATE TRIGGER turns_added AFTER INSERT ON turns BEGIN
        INSERT INTO words (rowid, question, answer) VALUES (new.number, new.question, new.answer);
    END;
    CREATE TRIGGER turns_removed AFTER DELETE ON turns BEGIN
        INSERT INTO words (words, rowid, question, answer)
        VALUES ('delete', old.number, old.question, old.answer);
    END;
    CREATE TRIGGER turns_changed AFTER UPDATE ON turns BEGIN
        INSERT INTO words (words, rowid, question, answer)
        VALUES ('delete', old.number, old.question, old.answer);
        INSERT INTO words (rowid, question, answer) VALUES (new.number, new.question, new.answer);
    END;
    """,
    # The number of the last turn. It is kept when that turn is removed, to find the conversation
    # that was used last.
    """
    ALTER TABLE conversations ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;
    UPDATE conversations SET latest = coalesce(
        (SELECT max(number) FROM turns WHERE conversation = conversations.id), 0
    );
    CREATE INDEX conversations_by_latest ON conversations (latest);
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the missing migrations, each in one transaction.

    Raises:
        MlxdError: a newer version of mlxd wrote the database.
        sqlite3.DatabaseError: the database is damaged or cannot be written.
    """
    (had,) = connection.execute("PRAGMA user_version").fetchone()
    if had > len(MIGRATIONS):
        raise MlxdError(
            "A newer version of mlxd wrote the stored conversations.",
            hint="Set conversations = false in config.toml, or upgrade: pip install --upgrade mlxd",
        )
    for number, script in enumerate(MIGRATIONS[had:], had + 1):
        connection.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")
