"""Decides what the compute thread does next. Pure: facts in, a `SchedulerOutput` out.

Each model and priority class has a request queue with a decoding batch of its own. Only the highest
class that has work runs. The batches of lower classes keep their KV caches, so nothing is
recomputed when they continue. Queues of one class alternate.

Inside a queue, connections share: the one that received the fewest tokens goes first (start-time
fair queueing over tokens). When the batch is full and a connection has no sequence in it, the
scheduler preempts the newest request of the connection with the most sequences. A preempted request
keeps its KV cache and resumes later.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

RANKS = {"interactive": 0, "completion": 1, "batch": 2}
"""Maps a priority class to its rank. Lower ranks run first."""

KV_SHARE = (1.0, 0.85, 0.7)
"""Share of the KV budget that each rank may fill, so that batch work never blocks others."""

READY_AHEAD = 2
"""Sequences that may be prefilled beyond the free places of the batch. More would only use
memory."""

PREFILL_MAX_TOKENS = 2048
"""Prompt tokens after which a scheduler output includes no further request. Usually the time limit
ends a prefill earlier."""

ABSENT_MAX = 256
"""Connections without requests whose shares are kept. Those served least are removed first."""

OVERTAKES_MAX = 8
"""Number of times that shorter prompts of the same connection may overtake a longer one."""


class RequestQueue(NamedTuple):
    """Identifies the queue of one model (its key) at one priority class (its rank)."""

    rank: int
    model: str


class State(Enum):
    WAITING = "waiting"
    PREFILL = "prefill"
    READY = "ready"
    DECODE = "decode"
    PREEMPTED = "preempted"


@dataclass(slots=True)
class Entry:
    """The scheduler's data about one request. Token and byte counts are upper bounds."""

    request_id: int
    queue: RequestQueue
    conn: int
    sequences: int
    prompt_left: int
    kv_bytes: int = 0
    state: State = State.WAITING
    arrival: int = 0
    overtaken: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """What to do next, in this order: preempt, admit (start or resume), decode, prefill.

    `prefill` lists the requests whose prompts share one chunk's time, in order of computation.
    """

    queue: RequestQueue | None = None
    preempt: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    decode: bool = False
    prefill: tuple[int, ...] = ()

    @property
    def idle(self) -> bool:
        return not (self.preempt or self.admit or self.decode or self.prefill)


@dataclass(slots=True)
class Scheduler:
    """Holds the entries. `schedule` decides, and the other methods report events."""

    max_sequences: int = 32
    kv_budget_bytes: float = math.inf
    entries: dict[int, Entry] = field(default_factory=dict)
    _served: dict[int, float] = field(default_factory=dict)
    _last_scheduled: dict[RequestQueue, int] = field(default_factory=dict)
    _schedules: int = 0
    _arrivals: int = 0
    _steady: SchedulerOutput | None = None
    """Cached output while all requests decode in one queue and nothing changes."""

    def add(self, entry: Entry) -> None:
        """Add a request with a tokenized prompt and a loaded model."""
        assert entry.request_id not in self.entries, "a request is added only once"
        self._steady = None
        entry.arrival = self._arrivals
        self._arrivals += 1
        active = {other.conn for other in self.entries.values()}
        if entry.conn not in active:
            floor = min((self._served[conn] for conn in active), default=0.0)
            self._served[entry.conn] = max(self._served.get(entry.conn, 0.0), floor)
        self.entries[entry.request_id] = entry

    def remove(self, request_id: int) -> None:
        """Forget a request that ended, whatever its state."""
        self._steady = None
        entry = self.entries.pop(request_id, None)
        if entry is None:
            return
        queues = {other.queue for other in self.entries.values()}
        if entry.queue not in queues:
            self._last_scheduled.pop(entry.queue, None)
        self._forget_served()

    def _forget_served(self) -> None:
        """Remove the shares of connections without requests if they make no difference any more.

        A connection that returns starts at the lowest share of the active ones. A share at or below
        that makes no difference, so it can be removed.
        """
        if not self.entries:
            self._served.clear()
            return
        here = {entry.conn for entry in self.entries.values()}
        floor = min(self._served[conn] for conn in here)
        absent = [conn for conn, served in self._served.items() if conn not in here]
        lower = [conn for conn in absent if self._served[conn] <= floor]
        surplus = sorted(absent, key=self._served.__getitem__)[: max(0, len(absent) - ABSENT_MAX)]
        for conn in {*lower, *surplus}:
            del self._served[conn]

    def prefilled(self, request_id: int, tokens: int) -> None:
        """Report a prefill chunk. A request whose prompt is complete becomes ready to decode."""
        self._steady = None
        entry = self.entries[request_id]
        entry.prompt_left = max(0, entry.prompt_left - tokens)
        entry.state = State.PREFILL if entry.prompt_left else State.READY
        self._charge(entry.conn, tokens)

    def decoded(self, request_id: int, tokens: int) -> None:
        """Report emitted tokens. They count for fairness."""
        self._charge(self.entries[request_id].conn, tokens)

    def sequence_ended(self, request_id: int) -> None:
        """Report that one of the request's sequences finished while others continue."""
        self._steady = None
        self.entries[request_id].sequences -= 1

    def inherit(self, request_id: int, tokens: int) -> None:
        """Report prompt tokens found in the prefix cache. They do not count for fairness."""
        self._steady = None
        entry = self.entries[request_id]
        entry.prompt_left = max(0, entry.prompt_left - tokens)
        if not entry.prompt_left:
            entry.state = State.READY

    def schedule(self) -> SchedulerOutput:
        """Choose what to do next, and mark preempted and admitted requests as such."""
        if self._steady is not None:
            return self._steady
        for queue in self._queues_in_order():
            output = self._schedule_queue(queue)
            if not output.idle:
                self._schedules += 1
                self._last_scheduled[queue] = self._schedules
                if output == SchedulerOutput(queue, decode=True) and self._all_decode_in(queue):
                    self._steady = output
                return output
        return SchedulerOutput()

    def kv_in_use(self) -> int:
        """Return the upper bound of the KV bytes of all started requests."""
        return sum(e.kv_bytes for e in self.entries.values() if e.state is not State.WAITING)

    def decoding_in(self, queue: RequestQueue) -> int:
        """Return the number of sequences of `queue` that decode."""
        return sum(e.sequences for e in self._in(queue, State.DECODE))

    def _all_decode_in(self, queue: RequestQueue) -> bool:
        return len(self._in(queue, State.DECODE)) == len(self.entries)

    def _charge(self, conn: int, tokens: int) -> None:
        self._served[conn] = self._served.get(conn, 0.0) + tokens

    def _queues_in_order(self) -> list[RequestQueue]:
        queues = {entry.queue for entry in self.entries.values()}
        return sorted(
            queues, key=lambda queue: (queue.rank, self._last_scheduled.get(queue, 0), queue.model)
        )

    def _in(self, queue: RequestQueue, *states: State) -> list[Entry]:
        return [e for e in self.entries.values() if e.queue == queue and e.state in states]

    def _schedule_queue(self, queue: RequestQueue) -> SchedulerOutput:
        admit = self._admit(queue)
        preempt: tuple[int, ...] = ()
        if not admit:
            preempt, admit = self._make_room(queue)
        for request_id in preempt:
            self.entries[request_id].state = State.PREEMPTED
        for request_id in admit:
            self.entries[request_id].state = State.DECODE
        return SchedulerOutput(
            queue=queue,
            preempt=preempt,
            admit=admit,
            decode=bool(self._in(queue, State.DECODE)),
            prefill=self._choose_prefills(queue),
        )

    def _admit(self, queue: RequestQueue) -> tuple[int, ...]:
        free = self.max_sequences - self.decoding_in(queue)
        admitted: list[int] = []
        for entry in self._by_right(queue, self._in(queue, State.READY, State.PREEMPTED)):
            # A request with more choices than the batch has places runs when the batch is empty.
            alone = free == self.max_sequences and not admitted
            if entry.sequences <= free or alone:
                admitted.append(entry.request_id)
                free -= entry.sequences
            if free <= 0:
                break
        return tuple(admitted)

    def _make_room(self, queue: RequestQueue) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Preempt a request of the connection with most sequences for a connection with none."""
        running = self._in(queue, State.DECODE)
        held = Counter(dict.fromkeys({e.conn for e in running}, 0))
        for entry in running:
            held[entry.conn] += entry.sequences
        waiting = self._by_right(queue, self._in(queue, State.READY, State.PREEMPTED))
        starved = next((entry for entry in waiting if not held[entry.conn]), None)
        if starved is None or len(running) < 2:
            return (), ()
        for conn, _ in held.most_common():
            own = [entry for entry in running if entry.conn == conn]
            if len(own) < 2:
                continue
            victim = max(own, key=lambda entry: entry.arrival)
            free = self.max_sequences - self.decoding_in(queue) + victim.sequences
            if starved.sequences <= free:
                return (victim.request_id,), (starved.request_id,)
        return (), ()

    def _by_right(self, queue: RequestQueue, entries: Iterable[Entry]) -> list[Entry]:
        held: Counter[int] = Counter()
        for entry in self._in(queue, State.DECODE):
            held[entry.conn] += entry.sequences
        return sorted(
            entries, key=lambda e: (held[e.conn], self._served.get(e.conn, 0.0), e.arrival)
        )

    def _choose_prefills(self, queue: RequestQueue) -> tuple[int, ...]:
        """Return the requests to prefill.

        Short prompts are chosen together, so that they start together.

        A chosen prompt counts as served at once, so the list is as fair as single choices.
        """
        served = dict(self._served)
        chosen: list[Entry] = []
        held = self.kv_in_use()
        tokens = 0
        while tokens < PREFILL_MAX_TOKENS:
            candidates = self._prefill_candidates(queue, chosen, held)
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
        return tuple(entry.request_id for entry in chosen)

    def _prefill_candidates(
        self, queue: RequestQueue, chosen: list[Entry], held: int
    ) -> list[Entry]:
        taken = {one.request_id for one in chosen}  # entries compare field by field
        candidates = [e for e in self._in(queue, State.PREFILL) if e.request_id not in taken]
        if self._may_start_another(queue, chosen):
            room = self.kv_budget_bytes * KV_SHARE[queue.rank] - held
            candidates += [
                e
                for e in self._in(queue, State.WAITING)
                if e.request_id not in taken and (e.kv_bytes <= room or held == 0)
            ]
        return candidates

    @staticmethod
    def _prefill_key(entry: Entry, served: dict[int, float]) -> tuple[float, int, int, int]:
        due = entry.overtaken >= OVERTAKES_MAX
        share = served.get(entry.conn, 0.0)
        return (share, 0 if due else 1, 0 if due else entry.prompt_left, entry.arrival)

    def _may_start_another(self, queue: RequestQueue, chosen: list[Entry]) -> bool:
        """Return whether another prompt could decode soon, or its connection has no other
        request."""
        begun = [one for one in chosen if one.state is State.WAITING]
        ahead = [*self._in(queue, State.READY, State.PREFILL, State.PREEMPTED), *begun]
        free = self.max_sequences - self.decoding_in(queue)
        if sum(entry.sequences for entry in ahead) < max(free, 0) + READY_AHEAD:
            return True
        served_now = {e.conn for e in self._in(queue, State.DECODE, State.READY, State.PREFILL)}
        served_now |= {one.conn for one in begun}
        return any(entry.conn not in served_now for entry in self._in(queue, State.WAITING))
