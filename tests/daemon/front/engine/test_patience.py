"""When an engine is taken to be stuck: simulated time, simulated processes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mlxd.daemon.front.engine.patience import COMPUTE, LOAD, START, WAIT, Patience, Sight, limit_s

CEILING_S = 120.0
Seen = Callable[[float], Sight | None]


def asleep(_now_s: float) -> Sight:
    return Sight(cpu_s=3.0, queued_s=1.0)


def alone(now_s: float) -> Sight:
    return Sight(cpu_s=now_s, queued_s=0.0)


def starved(now_s: float) -> Sight:
    """It gets a tenth of the time that it could use."""
    return Sight(cpu_s=0.1 * now_s, queued_s=0.9 * now_s)


def waits_for_the_disk(_now_s: float) -> Sight:
    return Sight(cpu_s=3.0, queued_s=1.0, held_up=True)


def throttled(_now_s: float) -> Sight:
    return Sight(cpu_s=3.0, queued_s=1.0, ready=True)


def unknown(_now_s: float) -> Sight | None:
    return None


def stuck_after_s(
    patience: Patience, seen: Seen, look_s: float = 1.0, *, answers: bool = False
) -> float:
    """Look until the verdict falls; returns when that is, infinity where it never does.

    `answers`: its link answers every ping.
    """
    now_s = 1000.0
    patience.heard(now_s)
    for _ in range(1000):
        now_s += look_s
        if patience.wants_ping():
            patience.pinged()
            if answers:
                patience.ponged()
        if patience.look(now_s, seen(now_s)):
            return now_s - 1000.0
    return math.inf


def computing(expected_s: float | None = 1.0, *, uses_cpu: bool = True) -> Patience:
    return Patience(CEILING_S, uses_cpu=uses_cpu, what=COMPUTE, expected_s=expected_s)


def test_a_step_in_which_all_threads_sleep_is_stuck_within_seconds():
    assert stuck_after_s(computing(), asleep, answers=True) <= 7
    assert stuck_after_s(computing(expected_s=500.0), asleep) <= 7, "however long it may take"


def test_threads_may_sleep_while_a_gpu_computes():
    patience = computing(5.0, uses_cpu=False)
    assert stuck_after_s(patience, asleep, answers=True) > limit_s(5.0)


def test_a_step_that_spins_is_stuck_after_many_times_what_it_takes():
    assert limit_s(1.0) < stuck_after_s(computing(1.0), alone) <= limit_s(1.0) + 2
    assert limit_s(4.0) < stuck_after_s(computing(4.0), alone) <= limit_s(4.0) + 2


def test_a_busy_machine_makes_no_step_look_stuck():
    limit = limit_s(1.0)
    assert stuck_after_s(computing(1.0), starved) > 7 * limit
    assert stuck_after_s(computing(1.0), throttled, answers=True) > 7 * limit


def test_a_step_that_waits_for_a_disk_or_a_compiler_has_the_longest_time():
    assert stuck_after_s(computing(1.0), waits_for_the_disk, answers=True) > CEILING_S


@pytest.mark.parametrize("seen", [asleep, alone, starved, unknown])
def test_a_load_ends_by_the_longest_silence_only(seen: Seen):
    loading = Patience(CEILING_S, uses_cpu=True, what=LOAD)
    assert CEILING_S < stuck_after_s(loading, seen) <= CEILING_S + 2


def test_where_nothing_can_be_seen_the_clock_decides():
    assert limit_s(1.0) < stuck_after_s(computing(1.0), unknown) <= limit_s(1.0) + 2


def test_a_machine_that_slept_is_no_silence():
    patience = computing(1.0)
    patience.heard(0.0)
    assert not patience.look(3600.0, None)
    assert patience.silent_s < 5


def test_a_step_that_holds_the_interpreter_is_stuck_on_a_busy_machine_too():
    """Its other threads wake up again and again, and queue for a core each time."""

    def polls(now_s: float) -> Sight:
        return Sight(cpu_s=0.01 * now_s, queued_s=2.0 * now_s, ready=True)

    assert stuck_after_s(computing(1.0), polls) <= 15


def test_progress_begins_anew():
    patience = computing(1.0)
    patience.heard(0.0)
    for now_s in range(1, 1000):
        assert not patience.look(float(now_s), alone(now_s))
        if now_s % 10 == 0:
            patience.heard(float(now_s))


def test_an_engine_that_waits_is_asked_for_a_sign_of_life():
    def waiting() -> Patience:
        return Patience(CEILING_S, uses_cpu=True, what=WAIT)

    assert stuck_after_s(waiting(), asleep) <= 15, "it is stopped"
    assert 30 < stuck_after_s(waiting(), alone) <= 40, "a long call holds its interpreter"
    assert stuck_after_s(waiting(), starved) > CEILING_S - 1


def test_an_engine_that_gives_a_sign_of_life_may_wait():
    patience = Patience(CEILING_S, uses_cpu=True, what=WAIT)
    patience.heard(0.0)
    for now_s in range(1, 119):
        assert not patience.look(float(now_s), asleep(now_s))
        if patience.wants_ping():
            patience.pinged()
            patience.ponged()


def test_a_start_that_computes_may_take_long_and_one_that_sleeps_may_not():
    def starting() -> Patience:
        return Patience(5 * CEILING_S, what=START)

    assert stuck_after_s(starting(), asleep) <= 25
    assert stuck_after_s(starting(), alone) > 5 * CEILING_S
