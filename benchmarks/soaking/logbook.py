"""Follows the daemon's log and checks it: one line per request, and nothing unexpected."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import IO, Any

from soaking.ledger import Ledger

ALARMING = frozenset({"unexpected", "internal error", "conversations damaged",
                      "conversation not stored"})  # fmt: skip


class Logbook:
    """Follows the log file across rotations. Call `read` regularly."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        self._file: IO[str] | None = None
        self._partial = ""
        self._rids: set[int] = set()
        self._pid = 0
        self.events: Counter[str] = Counter()
        self.requests = 0
        self.daemons = 0

    def read(self) -> None:
        """Read the lines that were written since the last call."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open(encoding="utf-8")
                except FileNotFoundError:
                    return
            self._lines(self._file.read())
            if not self._moved(self._file):
                return
            self._lines(self._file.read())
            self._file.close()
            self._file = None

    def _moved(self, file: IO[str]) -> bool:
        try:
            return not self._path.samefile(f"/dev/fd/{file.fileno()}")
        except FileNotFoundError:
            return False  # during a rotation; the next call reads it

    def _lines(self, text: str) -> None:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            try:
                self._take(json.loads(line))
            except ValueError:
                self._ledger.violate(f"the log has a malformed line: {line[:200]!r}")

    def _take(self, line: dict[str, Any]) -> None:
        event = line["event"]
        self.events[event] += 1
        if event in ALARMING:
            self._ledger.violate(f"unexpected log line: {json.dumps(line)}")
        if event == "ready":
            self.daemons += 1
            self._rids = set()
        elif event == "request":
            self.requests += 1
            if line["rid"] in self._rids:
                self._ledger.violate(f"the log has two lines for request {line['rid']}")
            self._rids.add(line["rid"])
        elif event == "stopped" and self._rids:
            # Check that the log has a line for every request. The daemon must not have been killed.
            missing = set(range(1, max(self._rids) + 1)) - self._rids
            if missing:
                self._ledger.violate(f"the log has no line for requests {sorted(missing)[:20]}")
