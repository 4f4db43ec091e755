"""Accounts for every request exactly once, and records injected faults, which excuse errors."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

BACKOFF_EXCUSE_S = 60.0
"""After a crash, further requests may fail for as long as the restart is delayed."""
LOSS_SLACK_S = 2.0
"""A caller notices a little late that its daemon was killed."""
VIOLATIONS_KEPT = 100

ANSWER, LOST, HUNG_UP = "answer", "lost", "hung up"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was caused: `kill front`, `restart`, `kill engine`, …"""

    what: str
    began_s: float


class Faults:
    """The faults with their times, and which failed requests they explain."""

    def __init__(self) -> None:
        self.done: list[Fault] = []

    def note(self, what: str) -> None:
        self.done.append(Fault(what, time.monotonic()))

    def counts(self) -> dict[str, int]:
        return dict(Counter(fault.what for fault in self.done))

    def since(self, when_s: float, *names: str) -> bool:
        return any(fault.what in names and fault.began_s >= when_s for fault in self.done)

    def explain(self, outcome: str, sent_s: float) -> bool:
        """Whether a fault explains this outcome of a request that was sent at that time."""
        if outcome == LOST:
            # Either the daemon was killed during the request, or it was stopped before the request
            # was sent. A stopping daemon reads nothing after its last answers.
            late = sent_s - LOSS_SLACK_S
            return self.since(late, "kill front") or self._restarted_before(sent_s)
        if outcome == "engine_died":
            return self.since(sent_s - BACKOFF_EXCUSE_S, "kill engine", "stop engine")
        if outcome == "shutting_down":
            return self.since(sent_s - BACKOFF_EXCUSE_S, "restart")
        return False

    def _restarted_before(self, sent_s: float) -> bool:
        began = [one.began_s for one in self.done if one.what == "restart"]
        return any(sent_s - BACKOFF_EXCUSE_S < when <= sent_s for when in began)


@dataclass(slots=True)
class Entry:
    """One request. `allowed` are the error codes that its caller provoked."""

    number: int
    kind: str
    allowed: set[str]
    sent_s: float = field(default_factory=time.monotonic)
    outcome: str = ""

    def __str__(self) -> str:
        return f"request {self.number} ({self.kind})"


class Ledger:
    """Keeps one entry per request. Each must be closed once, with an outcome that is explained."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.open: dict[int, Entry] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.violations: list[str] = []
        self.violation_count = 0
        self.last_answer_s = 0.0
        self._sent = 0

    @property
    def sent(self) -> int:
        return self._sent

    def begin(self, kind: str, *allowed: str) -> Entry:
        self._sent += 1
        entry = Entry(self._sent, kind, set(allowed))
        self.open[entry.number] = entry
        return entry

    def end(self, entry: Entry, outcome: str, detail: str = "") -> None:
        """Close an entry with an answer, an error code, or the loss of its connection."""
        if entry.outcome:
            self.violate(f"{entry} ended twice: {entry.outcome}, then {outcome}")
            return
        entry.outcome = outcome
        del self.open[entry.number]
        self.ends[entry.kind, outcome] += 1
        if outcome == ANSWER:
            self.last_answer_s = time.monotonic()
        elif outcome in (*entry.allowed, HUNG_UP):
            return
        elif not self.faults.explain(outcome, entry.sent_s):
            self.violate(f"{entry} ended with {outcome}, which no fault explains: {detail}")

    def violate(self, what: str) -> None:
        self.violation_count += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(what)

    def by_outcome(self) -> dict[str, int]:
        return self._sum(1)

    def by_kind(self) -> dict[str, int]:
        return self._sum(0)

    def _sum(self, place: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        for key, count in self.ends.items():
            found[key[place]] += count
        return dict(found.most_common())
