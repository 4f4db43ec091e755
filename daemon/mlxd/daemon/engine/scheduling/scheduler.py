"""Decides what the compute thread does next. Pure: facts in, a `Turn` out, time only as numbers.

Work is kept in lanes: one per model and priority class, each with its own decoding batch. Only the
highest class that has work runs; a lower lane simply is not stepped, so that its KV stays where it
is and nothing is recomputed when it goes on. Lanes of one class take turns.

Inside a lane, connections share: the one that was served least goes first (start-time fair
queueing over tokens). When all rows are taken and somebody has none, the connection that holds
most gives one up: its newest sequence is parked with its KV and resumed later.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

RANKS = {"interactive": 0, "completion": 1, "batch": 2}
"""Priority class to rank; a lower rank runs first."""

KV_SHARE = (1.0, 0.85, 0.7)
"""Share of the KV budget that each rank may fill, so that batch work never locks others out."""

READY_AHEAD = 2
"""Prompts that may be prefilled ahead of a free row; more would only hold memory."""

TURN_PROMPT_TOKENS = 2048
"""Prompt tokens after which no further job is named for a turn; time ends most turns earlier."""

ABSENT_MAX = 256
"""Connections without jobs whose share is remembered. Those served least are forgotten first."""

OVERTAKES_MAX = 8
"""How often shorter prompts of the same connection may go before a longer one."""


class Lane(NamedTuple):
    """One model at one priority class."""

    rank: int
    model: str


class State(Enum):
    WAITING = "waiting"
    PREFILL = "prefill"
    READY = "ready"
    DECODE = "decode"
    PARKED = "parked"


@dataclass(slots=True)
class Entry:
    """What the scheduler knows of one job. Token and byte figures are estimates from above."""

    job: int
    lane: Lane
    conn: int
    rows: int
    prompt_left: int
    kv_bytes: int = 0
    state: State = State.WAITING
    arrival: int = 0
    overtaken: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do now, in this order: park, resume (or start) rows, decode, prefill.

    `prefill` lists the jobs whose prompts share one chunk's time, first come first computed.
    """

    lane: Lane | None = None
    park: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    decode: bool = False
    prefill: tuple[int, ...] = ()

    @property
    def idle(self) -> bool:
        return not (self.park or self.admit or self.decode or self.prefill)


@dataclass(slots=True)
class Scheduler:
    """Holds the entries; `plan` reads, the other methods report what happened."""

    max_rows: int = 32
    kv_budget_bytes: float = math.inf
    entries: dict[int, Entry] = field(default_factory=dict)
    _served: dict[int, float] = field(default_factory=dict)
    _lane_turn: dict[Lane, int] = field(default_factory=dict)
    _turns: int = 0
    _arrivals: int = 0
    _steady: Turn | None = None
    """The turn while everybody decodes in one lane: the same one until something changes."""

    def add(self, entry: Entry) -> None:
        """Admit a job whose prompt is tokenized and whose model is resident."""
        assert entry.job not in self.entries, "a job is admitted once"
        self._steady = None
        entry.arrival = self._arrivals
        self._arrivals += 1
        active = {other.conn for other in self.entries.values()}
        if entry.conn not in active:
            floor = min((self._served[conn] for conn in active), default=0.0)
            self._served[entry.conn] = max(self._served.get(entry.conn, 0.0), floor)
        self.entries[entry.job] = entry

    def remove(self, job: int) -> None:
        """Forget a job that ended, whatever its state."""
        self._steady = None
        entry = self.entries.pop(job, None)
        if entry is None:
            return
        lanes = {other.lane for other in self.entries.values()}
        if entry.lane not in lanes:
            self._lane_turn.pop(entry.lane, None)
        self._forget_served()

    def _forget_served(self) -> None:
        """Forget what connections without jobs were served, where that no longer counts.

        One that comes back begins at the least of those that are here, so that whoever is not
        above it loses and gains nothing.
        """
        if not self.entries:
            self._served.clear()
            return
        here = {entry.conn for entry in self.entries.values()}
        floor = min(self._served[conn] for conn in here)
        gone = [conn for conn, served in self._served.items() if conn not in here]
        lower = [conn for conn in gone if self._served[conn] <= floor]
        surplus = sorted(gone, key=self._served.__getitem__)[: max(0, len(gone) - ABSENT_MAX)]
        for conn in {*lower, *surplus}:
            del self._served[conn]

    def prefilled(self, job: int, tokens: int) -> None:
        """Report a prefill chunk. A job without tokens left becomes ready for a row."""
        self._steady = None
        entry = self.entries[job]
        entry.prompt_left = max(0, entry.prompt_left - tokens)
        entry.state = State.PREFILL if entry.prompt_left else State.READY
        self._charge(entry.conn, tokens)

    def decoded(self, job: int, tokens: int) -> None:
        """Report emitted tokens; they count for fairness."""
        self._charge(self.entries[job].conn, tokens)

    def row_left(self, job: int) -> None:
        """Report that one of the job's rows finished while others go on."""
        self._steady = None
        self.entries[job].rows -= 1

    def inherit(self, job: int, tokens: int) -> None:
        """Report that this much of the prompt was found in a cache: it costs nobody anything."""
        self._steady = None
        entry = self.entries[job]
        entry.prompt_left = max(0, entry.prompt_left - tokens)
        if not entry.prompt_left:
            entry.state = State.READY

    def plan(self) -> Turn:
        """Choose the next turn, and mark parked and admitted jobs as such."""
        if self._steady is not None:
            return self._steady
        for lane in self._lanes_in_order():
            turn = self._plan_lane(lane)
            if not turn.idle:
                self._turns += 1
                self._lane_turn[lane] = self._turns
                if turn == Turn(lane, decode=True) and self._all_decode_in(lane):
                    self._steady = turn
                return turn
        return Turn()

    def kv_in_use(self) -> int:
        """Bytes that admitted jobs may come to hold."""
        return sum(e.kv_bytes for e in self.entries.values() if e.state is not State.WAITING)

    def decoding_in(self, lane: Lane) -> int:
        """Rows of `lane` that decode."""
        return sum(e.rows for e in self._in(lane, State.DECODE))

    def _all_decode_in(self, lane: Lane) -> bool:
        return len(self._in(lane, State.DECODE)) == len(self.entries)

    def _charge(self, conn: int, tokens: int) -> None:
        self._served[conn] = self._served.get(conn, 0.0) + tokens

    def _lanes_in_order(self) -> list[Lane]:
        lanes = {entry.lane for entry in self.entries.values()}
        return sorted(lanes, key=lambda lane: (lane.rank, self._lane_turn.get(lane, 0), lane.model))

    def _in(self, lane: Lane, *states: State) -> list[Entry]:
        return [e for e in self.entries.values() if e.lane == lane and e.state in states]

    def _plan_lane(self, lane: Lane) -> Turn:
        admit = self._admit(lane)
        park: tuple[int, ...] = ()
        if not admit:
            park, admit = self._make_room(lane)
        for job in park:
            self.entries[job].state = State.PARKED
        for job in admit:
            self.entries[job].state = State.DECODE
        return Turn(
            lane=lane,
            park=park,
            admit=admit,
            decode=bool(self._in(lane, State.DECODE)),
            prefill=self._choose_prefills(lane),
        )

    def _admit(self, lane: Lane) -> tuple[int, ...]:
        free = self.max_rows - self.decoding_in(lane)
        admitted: list[int] = []
        for entry in self._by_right(lane, self._in(lane, State.READY, State.PARKED)):
            # A job with more answers than the batch has rows runs when it has the batch alone.
            alone = free == self.max_rows and not admitted
            if entry.rows <= free or alone:
                admitted.append(entry.job)
                free -= entry.rows
            if free <= 0:
                break
        return tuple(admitted)

    def _make_room(self, lane: Lane) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Park the newest job of the connection that holds most rows for one that holds none."""
        running = self._in(lane, State.DECODE)
        held = Counter(dict.fromkeys({e.conn for e in running}, 0))
        for entry in running:
            held[entry.conn] += entry.rows
        waiting = self._by_right(lane, self._in(lane, State.READY, State.PARKED))
        starved = next((entry for entry in waiting if not held[entry.conn]), None)
        if starved is None or len(running) < 2:
            return (), ()
        for conn, _rows in held.most_common():
            own = [entry for entry in running if entry.conn == conn]
            if len(own) < 2:
                continue
            victim = max(own, key=lambda entry: entry.arrival)
            free = self.max_rows - self.decoding_in(lane) + victim.rows
            if starved.rows <= free:
                return (victim.job,), (starved.job,)
        return (), ()

    def _by_right(self, lane: Lane, entries: Iterable[Entry]) -> list[Entry]:
        held: Counter[int] = Counter()
        for entry in self._in(lane, State.DECODE):
            held[entry.conn] += entry.rows
        return sorted(
            entries, key=lambda e: (held[e.conn], self._served.get(e.conn, 0.0), e.arrival)
        )

    def _choose_prefills(self, lane: Lane) -> tuple[int, ...]:
        """Return whose prompts come next. Short ones share a turn: they start to decode together.

        Somebody else's turn comes before a second chunk of the same prompt, and what is chosen
        counts as served, so that the list is as fair as one choice after the other.
        """
        served = dict(self._served)
        chosen: list[Entry] = []
        held = self.kv_in_use()
        tokens = 0
        while tokens < TURN_PROMPT_TOKENS:
            candidates = self._prefill_candidates(lane, chosen, held)
            if not candidates:
                break
            entry = min(candidates, key=lambda one: self._prefill_key(one, served))
            for other in candidates:
                if other.conn == entry.conn and other.arrival < entry.arrival:
                    other.overtaken += 1
            held += entry.kv_bytes if entry.state is State.WAITING else 0
            chosen.append(entry)
            tokens += entry.prompt_left
            served[entry.conn] = served.get(entry.conn, 0.0) + entry.prompt_left
        return tuple(entry.job for entry in chosen)

    def _prefill_candidates(self, lane: Lane, chosen: list[Entry], held: int) -> list[Entry]:
        taken = {one.job for one in chosen}  # entries compare field by field
        candidates = [e for e in self._in(lane, State.PREFILL) if e.job not in taken]
        if self._may_start_another(lane, chosen):
            room = self.kv_budget_bytes * KV_SHARE[lane.rank] - held
            candidates += [
                e
                for e in self._in(lane, State.WAITING)
                if e.job not in taken and (e.kv_bytes <= room or held == 0)
            ]
        return candidates

    @staticmethod
    def _prefill_key(entry: Entry, served: dict[int, float]) -> tuple[float, int, int, int]:
        patient = entry.overtaken >= OVERTAKES_MAX
        had = served.get(entry.conn, 0.0)
        return (had, 0 if patient else 1, 0 if patient else entry.prompt_left, entry.arrival)

    def _may_start_another(self, lane: Lane, chosen: list[Entry]) -> bool:
        """Whether a further prompt would soon find a row, or belongs to one who has none."""
        begun = [one for one in chosen if one.state is State.WAITING]
        ahead = [*self._in(lane, State.READY, State.PREFILL, State.PARKED), *begun]
        free = self.max_rows - self.decoding_in(lane)
        if sum(entry.rows for entry in ahead) < max(free, 0) + READY_AHEAD:
            return True
        served_now = {e.conn for e in self._in(lane, State.DECODE, State.READY, State.PREFILL)}
        served_now |= {one.conn for one in begun}
        return any(entry.conn not in served_now for entry in self._in(lane, State.WAITING))
