"""The scheduler in simulated time: thousands of random schedules, checked for invariants."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxd.daemon.engine.scheduling.scheduler import (
    ABSENT_MAX,
    KV_SHARE,
    OVERTAKES_MAX,
    Entry,
    RequestQueue,
    Scheduler,
    SchedulerOutput,
    State,
)

CHUNK = 64


def entry(
    request_id: int,
    *,
    rank: int = 0,
    conn: int = 1,
    sequences: int = 1,
    prompt: int = 100,
    kv: int = 0,
) -> Entry:
    return Entry(request_id, RequestQueue(rank, "m"), conn, sequences, prompt, kv)


@dataclass
class SimulatedEngine:
    """Executes turns as the engine does, and checks each of them."""

    scheduler: Scheduler
    to_emit: dict[int, int] = field(default_factory=dict)
    emitted: Counter[int] = field(default_factory=Counter)
    prefilled: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    preempted: dict[int, int] = field(default_factory=dict)
    prompts: dict[int, int] = field(default_factory=dict)

    def add(self, new: Entry, tokens: int) -> None:
        self.to_emit[new.request_id] = tokens
        self.prompts[new.request_id] = new.prompt_left
        self.scheduler.add(new)

    def step(self) -> SchedulerOutput:
        output = self.scheduler.schedule()
        if output.idle:
            return output
        assert output.queue is not None
        self._check_class(output)
        for request_id in output.preempt:
            self.preempted[request_id] = self.emitted[request_id]
        for request_id in output.admit:
            assert self.emitted[request_id] == self.preempted.pop(request_id, 0), (
                "a preempted request loses nothing"
            )
        if output.decode:
            self._decode(output.queue)
        self._prefill(output.prefill)
        assert self.scheduler.kv_in_use() <= self.scheduler.kv_budget_bytes
        assert self.scheduler.decoding_in(output.queue) <= max(
            self.scheduler.max_sequences, 1
        ) or any(
            e.sequences > self.scheduler.max_sequences for e in self.scheduler.entries.values()
        )
        return output

    def _check_class(self, output: SchedulerOutput) -> None:
        assert output.queue is not None
        budget = self.scheduler.kv_budget_bytes
        for other in self.scheduler.entries.values():
            if other.queue.rank < output.queue.rank:
                room = budget * KV_SHARE[other.queue.rank] - self.scheduler.kv_in_use()
                blocked = other.state is State.WAITING and other.kv_bytes > room
                assert blocked, f"{output.queue} ran while {other} could"

    def _decode(self, queue: RequestQueue) -> None:
        running = [
            e
            for e in self.scheduler.entries.values()
            if e.queue == queue and e.state is State.DECODE
        ]
        assert running, "decode is scheduled only with sequences"
        for one in running:
            self.emitted[one.request_id] += 1
            self.scheduler.decoded(one.request_id, one.sequences)
            if self.emitted[one.request_id] >= self.to_emit[one.request_id]:
                self.end(one.request_id)

    def _prefill(self, request_ids: tuple[int, ...]) -> None:
        assert len(set(request_ids)) == len(request_ids)
        used = 0
        for request_id in request_ids:
            if request_id not in self.scheduler.entries or (used and used >= CHUNK):
                continue
            count = min(CHUNK - used, self.scheduler.entries[request_id].prompt_left)
            used += count
            self.prefilled[request_id] += count
            self.scheduler.prefilled(request_id, count)

    def end(self, request_id: int) -> None:
        self.ended[request_id] += 1
        self.scheduler.remove(request_id)


@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32), max_sequences=st.integers(1, 8), count=st.integers(1, 14))
def test_every_request_ends_exactly_once_and_nothing_is_computed_twice(
    seed: int, max_sequences: int, count: int
) -> None:
    rng = random.Random(seed)
    world = SimulatedEngine(
        Scheduler(max_sequences=max_sequences, kv_budget_bytes=rng.choice([1e9, 3000.0]))
    )
    cancelled = set()
    waiting = list(range(count))
    for _ in range(20_000):
        while waiting and rng.random() < 0.5:
            request_id = waiting.pop()
            new = Entry(
                request_id,
                RequestQueue(rng.randrange(3), rng.choice("ab")),
                rng.randrange(4),
                rng.choice([1, 1, 1, 2, 3]),
                rng.choice([0, 1, 50, 500]),
                rng.choice([0, 500, 1500]),
            )
            if new.prompt_left == 0:
                new.prompt_left = 1
            world.add(new, rng.randrange(1, 30))
        if world.scheduler.entries and rng.random() < 0.02:
            request_id = rng.choice(list(world.scheduler.entries))
            cancelled.add(request_id)
            world.end(request_id)
        if world.step().idle and not waiting:
            break
    assert not world.scheduler.entries
    assert set(world.ended) == set(range(count))
    assert set(world.ended.values()) == {1}
    for request_id in set(range(count)) - cancelled:
        assert world.emitted[request_id] == world.to_emit[request_id]
        assert world.prefilled[request_id] == world.prompts[request_id]


def test_interactive_work_preempts_a_batch_queue_at_once_and_the_batch_resumes_after() -> None:
    world = SimulatedEngine(Scheduler(max_sequences=4))
    world.add(entry(1, rank=2, prompt=10_000), 50)
    for _ in range(5):
        world.step()
    done = world.prefilled[1]
    world.add(entry(2, rank=0, prompt=100), 3)
    turns = 0
    while 2 in world.scheduler.entries:
        assert world.step().queue == RequestQueue(0, "m")
        turns += 1
    assert turns <= 2 + 4
    assert world.prefilled[1] == done
    world.step()
    assert world.prefilled[1] == done + CHUNK


def test_models_with_equal_priority_alternate() -> None:
    world = SimulatedEngine(Scheduler())
    for request_id, model in ((1, "a"), (2, "b")):
        world.add(Entry(request_id, RequestQueue(0, model), request_id, 1, 1), 20)
    queues = [output.queue.model for output in (world.step() for _ in range(12)) if output.queue]
    assert queues == ["a", "b"] * 6


def test_a_greedy_connection_gives_a_place_up_for_one_that_has_none() -> None:
    world = SimulatedEngine(Scheduler(max_sequences=4))
    for request_id in range(10):
        world.add(entry(request_id, conn=1, prompt=1), 1000)
    for _ in range(20):
        world.step()
    assert world.scheduler.decoding_in(RequestQueue(0, "m")) == 4
    world.add(entry(99, conn=2, prompt=1), 5)
    turns = 0
    while 99 in world.scheduler.entries:
        world.step()
        turns += 1
    assert turns <= 10
    assert len(world.preempted) >= 1


def test_a_short_prompt_waits_at_most_one_chunk_of_another_connection() -> None:
    world = SimulatedEngine(Scheduler())
    world.add(entry(1, conn=1, prompt=8000), 5)
    world.step()
    world.add(entry(2, conn=2, prompt=50), 5)
    assert world.step().prefill[0] == 2


def test_short_prompts_overtake_a_long_one_a_limited_number_of_times() -> None:
    world = SimulatedEngine(Scheduler(max_sequences=64))
    world.add(entry(0, conn=1, prompt=1000), 1)
    for request_id in range(1, 40):
        world.add(entry(request_id, conn=1, prompt=10), 1000)
    order: list[int] = []
    while 0 in world.scheduler.entries and len(order) < 100:
        output = world.step()
        order += output.prefill[:1]
    assert order.index(0) <= OVERTAKES_MAX + 1


def test_prompts_ahead_of_free_places_are_bounded_so_that_waiting_work_holds_no_memory() -> None:
    world = SimulatedEngine(Scheduler(max_sequences=2))
    for request_id in range(30):
        world.add(entry(request_id, prompt=10, kv=1), 10_000)
    for _ in range(100):
        world.step()
    assert world.scheduler.kv_in_use() <= 2 + 2 + 1


def test_a_request_is_admitted_once() -> None:
    scheduler = Scheduler()
    scheduler.add(entry(1))
    with pytest.raises(AssertionError):
        scheduler.add(entry(1))


def test_closed_connections_are_forgotten_while_work_continues() -> None:
    scheduler = Scheduler()
    scheduler.add(entry(0, conn=0, prompt=10**6))
    for number in range(1, 2000):
        scheduler.add(entry(number, conn=number, prompt=8))
        scheduler.prefilled(number, 8)
        scheduler.remove(number)
    assert len(scheduler._served) <= ABSENT_MAX + 1
    scheduler.prefilled(0, 10**6)
    scheduler.add(entry(1, conn=5000, prompt=8))
    scheduler.remove(1)
    assert set(scheduler._served) == {0}, "none was served more than the present connection"


def test_served_tokens_of_a_connection_are_remembered_while_others_wait() -> None:
    scheduler = Scheduler()
    scheduler.add(entry(0, conn=0, prompt=100))
    scheduler.add(entry(1, conn=1, prompt=100))
    scheduler.prefilled(1, 100)
    scheduler.remove(1)
    scheduler.add(entry(2, conn=1, prompt=10))
    assert scheduler.schedule().prefill[0] == 0
