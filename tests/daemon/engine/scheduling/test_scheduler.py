"""The scheduler in simulated time: thousands of random schedules against stated invariants."""

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
    Lane,
    Scheduler,
    State,
    Turn,
)

CHUNK = 64


def entry(job: int, *, rank: int = 0, conn: int = 1, rows: int = 1, prompt: int = 100, kv: int = 0):
    return Entry(job, Lane(rank, "m"), conn, rows, prompt, kv)


@dataclass
class World:
    """Carries out turns as the engine does, and checks each of them."""

    scheduler: Scheduler
    to_emit: dict[int, int] = field(default_factory=dict)
    emitted: Counter[int] = field(default_factory=Counter)
    prefilled: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    parked: dict[int, int] = field(default_factory=dict)
    prompts: dict[int, int] = field(default_factory=dict)

    def add(self, new: Entry, tokens: int) -> None:
        self.to_emit[new.job] = tokens
        self.prompts[new.job] = new.prompt_left
        self.scheduler.add(new)

    def turn(self) -> Turn:
        turn = self.scheduler.plan()
        if turn.idle:
            return turn
        assert turn.lane is not None
        self._check_class(turn)
        for job in turn.park:
            self.parked[job] = self.emitted[job]
        for job in turn.admit:
            assert self.emitted[job] == self.parked.pop(job, 0), "a parked job loses nothing"
        if turn.decode:
            self._decode(turn.lane)
        self._prefill(turn.prefill)
        assert self.scheduler.kv_in_use() <= self.scheduler.kv_budget_bytes
        assert self.scheduler.decoding_in(turn.lane) <= max(self.scheduler.max_rows, 1) or any(
            e.rows > self.scheduler.max_rows for e in self.scheduler.entries.values()
        )
        return turn

    def _check_class(self, turn: Turn) -> None:
        assert turn.lane is not None
        budget = self.scheduler.kv_budget_bytes
        for other in self.scheduler.entries.values():
            if other.lane.rank < turn.lane.rank:
                room = budget * KV_SHARE[other.lane.rank] - self.scheduler.kv_in_use()
                blocked = other.state is State.WAITING and other.kv_bytes > room
                assert blocked, f"{turn.lane} ran while {other} could"

    def _decode(self, lane: Lane) -> None:
        running = [
            e for e in self.scheduler.entries.values() if e.lane == lane and e.state is State.DECODE
        ]
        assert running, "decode is asked for only where rows are"
        for one in running:
            self.emitted[one.job] += 1
            self.scheduler.decoded(one.job, one.rows)
            if self.emitted[one.job] >= self.to_emit[one.job]:
                self.end(one.job)

    def _prefill(self, jobs: tuple[int, ...]) -> None:
        assert len(set(jobs)) == len(jobs)
        used = 0
        for job in jobs:
            if job not in self.scheduler.entries or (used and used >= CHUNK):
                continue
            count = min(CHUNK - used, self.scheduler.entries[job].prompt_left)
            used += count
            self.prefilled[job] += count
            self.scheduler.prefilled(job, count)

    def end(self, job: int) -> None:
        self.ended[job] += 1
        self.scheduler.remove(job)


@settings(max_examples=1000, deadline=None)
@given(seed=st.integers(0, 2**32), max_rows=st.integers(1, 8), jobs=st.integers(1, 14))
def test_every_job_ends_exactly_once_and_nothing_is_computed_twice(seed, max_rows, jobs) -> None:
    rng = random.Random(seed)
    world = World(Scheduler(max_rows=max_rows, kv_budget_bytes=rng.choice([1e9, 3000.0])))
    cancelled = set()
    waiting = list(range(jobs))
    for _ in range(20_000):
        while waiting and rng.random() < 0.5:
            job = waiting.pop()
            new = Entry(
                job,
                Lane(rng.randrange(3), rng.choice("ab")),
                rng.randrange(4),
                rng.choice([1, 1, 1, 2, 3]),
                rng.choice([0, 1, 50, 500]),
                rng.choice([0, 500, 1500]),
            )
            if new.prompt_left == 0:
                new.prompt_left = 1
            world.add(new, rng.randrange(1, 30))
        if world.scheduler.entries and rng.random() < 0.02:
            job = rng.choice(list(world.scheduler.entries))
            cancelled.add(job)
            world.end(job)
        if world.turn().idle and not waiting:
            break
    assert not world.scheduler.entries
    assert set(world.ended) == set(range(jobs))
    assert set(world.ended.values()) == {1}
    for job in set(range(jobs)) - cancelled:
        assert world.emitted[job] == world.to_emit[job]
        assert world.prefilled[job] == world.prompts[job]


def test_interactive_work_parks_a_batch_lane_within_one_turn_and_it_goes_on_after() -> None:
    world = World(Scheduler(max_rows=4))
    world.add(entry(1, rank=2, prompt=10_000), 50)
    for _ in range(5):
        world.turn()
    done = world.prefilled[1]
    world.add(entry(2, rank=0, prompt=100), 3)
    turns = 0
    while 2 in world.scheduler.entries:
        assert world.turn().lane == Lane(0, "m")
        turns += 1
    assert turns <= 2 + 4
    assert world.prefilled[1] == done
    world.turn()
    assert world.prefilled[1] == done + CHUNK


def test_models_of_one_class_take_turns() -> None:
    world = World(Scheduler())
    for job, model in ((1, "a"), (2, "b")):
        world.add(Entry(job, Lane(0, model), job, 1, 1), 20)
    lanes = [turn.lane.model for turn in (world.turn() for _ in range(12)) if turn.lane]
    assert lanes == ["a", "b"] * 6


def test_a_greedy_connection_gives_a_row_up_for_one_that_has_none() -> None:
    world = World(Scheduler(max_rows=4))
    for job in range(10):
        world.add(entry(job, conn=1, prompt=1), 1000)
    for _ in range(20):
        world.turn()
    assert world.scheduler.decoding_in(Lane(0, "m")) == 4
    world.add(entry(99, conn=2, prompt=1), 5)
    turns = 0
    while 99 in world.scheduler.entries:
        world.turn()
        turns += 1
    assert turns <= 10
    assert len(world.parked) >= 1


def test_a_short_prompt_waits_one_chunk_behind_another_connections_long_one() -> None:
    world = World(Scheduler())
    world.add(entry(1, conn=1, prompt=8000), 5)
    world.turn()
    world.add(entry(2, conn=2, prompt=50), 5)
    assert world.turn().prefill[0] == 2


def test_short_prompts_of_one_connection_overtake_a_long_one_a_bounded_number_of_times() -> None:
    world = World(Scheduler(max_rows=64))
    world.add(entry(0, conn=1, prompt=1000), 1)
    for job in range(1, 40):
        world.add(entry(job, conn=1, prompt=10), 1000)
    order = []
    while 0 in world.scheduler.entries and len(order) < 100:
        turn = world.turn()
        order += turn.prefill[:1]
    assert order.index(0) <= OVERTAKES_MAX + 1


def test_prompts_ahead_of_free_rows_are_bounded_so_that_waiting_work_holds_no_memory() -> None:
    world = World(Scheduler(max_rows=2))
    for job in range(30):
        world.add(entry(job, prompt=10, kv=1), 10_000)
    for _ in range(100):
        world.turn()
    assert world.scheduler.kv_in_use() <= 2 + 2 + 1


def test_a_job_is_admitted_once() -> None:
    scheduler = Scheduler()
    scheduler.add(entry(1))
    with pytest.raises(AssertionError):
        scheduler.add(entry(1))


def test_connections_that_have_gone_are_forgotten_though_there_is_always_work() -> None:
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
    assert set(scheduler._served) == {0}, "none of them was served more than who is here"


def test_who_was_served_much_is_remembered_while_others_wait() -> None:
    scheduler = Scheduler()
    scheduler.add(entry(0, conn=0, prompt=100))
    scheduler.add(entry(1, conn=1, prompt=100))
    scheduler.prefilled(1, 100)
    scheduler.remove(1)
    scheduler.add(entry(2, conn=1, prompt=10))
    assert scheduler.plan().prefill[0] == 0
