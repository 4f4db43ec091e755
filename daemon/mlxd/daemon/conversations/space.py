"""Returns the space of deleted rows to the file system."""

from __future__ import annotations

import contextlib
import sqlite3

GIVE_BACK_BYTES = 4 * 2**20
"""Unused space above which the file is made smaller, and size limit of an idle write-ahead log."""


def give_back(db: sqlite3.Connection) -> None:
    """Make the file of a database smaller, unless little of it is unused."""
    free, size, auto_vacuum = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("freelist_count", "page_size", "auto_vacuum")
    )
    if free * size < GIVE_BACK_BYTES:
        return
    # While another process reads the database, this fails. The space is returned the next time.
    with contextlib.suppress(sqlite3.OperationalError):
        # Databases of older versions can only be rewritten as a whole. As a script, because each
        # step of incremental_vacuum frees one page, and `execute` takes one step.
        db.executescript("PRAGMA incremental_vacuum" if auto_vacuum else "VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
