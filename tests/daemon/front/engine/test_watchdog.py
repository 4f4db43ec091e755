"""When an engine counts as stuck, with simulated time and simulated processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from mlxd.daemon.front.engine.watchdog import (
    COMPUTE,
    LOAD,
    START,
    WAIT,
    ProcessTimes,
    ThreadTimes,
    Watchdog,
    limit_s,
)

TIMEOUT_S = 120.0
MAIN, WORKER, LINK = 1, 2, 3
Measured = Callable[[float], ProcessTimes | None]
STILL = ThreadTimes(cpu_s=3.0, queued_s=1.0)


def process(**threads: ThreadTimes) -> ProcessTimes:
    ids = {"main": MAIN, "worker": WORKER, "link": LINK}
    times = {ids[name]: STILL for name in ids} | {ids[name]: one for name, one in threads.items()}
    return ProcessTimes(times, main=MAIN)


def asleep(_now_s: float) -> ProcessTimes:
    return process()


def alone(now_s: float) -> ProcessTimes:
    return process(main=ThreadTimes(cpu_s=now_s, queued_s=0.0))


def starved(now_s: float) -> ProcessTimes:
    """It gets a tenth of the time that it could use."""
    return process(main=ThreadTimes(cpu_s=0.1 * now_s, queued_s=0.9 * now_s))


def starved_worker(now_s: float) -> ProcessTimes:
    """The main thread waits for one of MLX's own threads, which gets a tenth of a core."""
    return process(worker=ThreadTimes(cpu_s=0.1 * now_s, queued_s=0.9 * now_s))


def polling(now_s: float) -> ThreadTimes:
    """A thread that wants the GIL on a busy machine: it wakes up often, and queues each time."""
    return ThreadTimes(cpu_s=0.03 * now_s, queued_s=0.6 * now_s)


def holds_the_gil(now_s: float) -> ProcessTimes:
    return replace(process(worker=polling(now_s), link=polling(now_s)), runnable=True)


def spins_in_python(now_s: float) -> ProcessTimes:
    """The main thread runs half of the time, while two others want the GIL."""
    main = ThreadTimes(cpu_s=0.5 * now_s, queued_s=0.5 * now_s)
    return process(main=main, worker=polling(now_s), link=polling(now_s))


def waits_for_the_disk(now_s: float) -> ProcessTimes:
    return replace(asleep(now_s), blocked=True)


def throttled(now_s: float) -> ProcessTimes:
    return replace(asleep(now_s), runnable=True)


def unknown(_now_s: float) -> ProcessTimes | None:
    return None


def stuck_after_s(
    watchdog: Watchdog, measured: Measured, period_s: float = 1.0, *, answers: bool = False
) -> float:
    """Return after how many seconds the engine counts as stuck, or infinity.

    `answers` tells that its link answers every ping.
    """
    now_s = 1000.0
    watchdog.progress(now_s)
    for _ in range(1000):
        now_s += period_s
        if watchdog.wants_ping():
            watchdog.pinged()
            if answers:
                watchdog.ponged()
        if watchdog.check(now_s, measured(now_s)):
            return now_s - 1000.0
    return math.inf


def computing(expected_s: float | None = 1.0, *, uses_cpu: bool = True) -> Watchdog:
    return Watchdog(TIMEOUT_S, uses_cpu=uses_cpu, activity=COMPUTE, expected_s=expected_s)


def test_a_step_in_which_all_threads_sleep_is_stuck_within_seconds() -> None:
    assert stuck_after_s(computing(), asleep, answers=True) <= 7
    assert stuck_after_s(computing(expected_s=500.0), asleep) <= 7, "however long it may take"


def test_threads_may_sleep_while_a_gpu_computes() -> None:
    watchdog = computing(5.0, uses_cpu=False)
    assert stuck_after_s(watchdog, asleep, answers=True) > limit_s(5.0)


def test_a_step_that_spins_is_stuck_after_many_times_what_it_takes() -> None:
    assert limit_s(1.0) < stuck_after_s(computing(1.0), alone) <= limit_s(1.0) + 2
    assert limit_s(4.0) < stuck_after_s(computing(4.0), alone) <= limit_s(4.0) + 2


def test_a_busy_machine_makes_no_step_look_stuck() -> None:
    limit = limit_s(1.0)
    assert stuck_after_s(computing(1.0), starved, answers=True) > 7 * limit
    assert stuck_after_s(computing(1.0), starved_worker, answers=True) > 7 * limit
    assert stuck_after_s(computing(1.0), starved_worker) > 7 * limit, "it may hold the GIL"
    assert stuck_after_s(computing(1.0), throttled, answers=True) > 7 * limit


def test_a_step_that_waits_for_a_disk_or_a_compiler_has_the_longest_time() -> None:
    assert stuck_after_s(computing(1.0), waits_for_the_disk, answers=True) > TIMEOUT_S


@pytest.mark.parametrize("measured", [asleep, alone, starved, unknown])
def test_a_load_ends_by_the_longest_silence_only(measured: Measured) -> None:
    loading = Watchdog(TIMEOUT_S, uses_cpu=True, activity=LOAD)
    assert TIMEOUT_S < stuck_after_s(loading, measured) <= TIMEOUT_S + 2


def test_where_nothing_can_be_seen_the_clock_decides() -> None:
    assert limit_s(1.0) < stuck_after_s(computing(1.0), unknown) <= limit_s(1.0) + 2


def test_a_machine_that_slept_is_no_silence() -> None:
    watchdog = computing(1.0)
    watchdog.progress(0.0)
    assert not watchdog.check(3600.0, None)
    assert watchdog.silent_s < 5


@pytest.mark.parametrize("activity", [COMPUTE, WAIT])
def test_an_engine_that_holds_the_gil_is_stuck_within_seconds_on_a_busy_machine(
    activity: str,
) -> None:
    watchdog = Watchdog(TIMEOUT_S, uses_cpu=True, activity=activity, expected_s=1.0)
    assert stuck_after_s(watchdog, holds_the_gil) <= 14


def test_threads_that_want_the_gil_do_not_hide_one_that_spins() -> None:
    assert stuck_after_s(computing(1.0), spins_in_python) <= 2 * limit_s(1.0) + 3


def test_progress_begins_anew() -> None:
    watchdog = computing(1.0)
    watchdog.progress(0.0)
    for now_s in range(1, 1000):
        assert not watchdog.check(float(now_s), alone(now_s))
        if now_s % 10 == 0:
            watchdog.progress(float(now_s))


def test_an_engine_that_waits_is_asked_for_a_sign_of_life() -> None:
    def waiting() -> Watchdog:
        return Watchdog(TIMEOUT_S, uses_cpu=True, activity=WAIT)

    assert stuck_after_s(waiting(), asleep) <= 15, "it is stopped"
    assert 30 < stuck_after_s(waiting(), alone) <= 40, "a long call holds its interpreter"
    assert stuck_after_s(waiting(), starved) > TIMEOUT_S - 1


def test_an_engine_that_gives_a_sign_of_life_may_wait() -> None:
    watchdog = Watchdog(TIMEOUT_S, uses_cpu=True, activity=WAIT)
    watchdog.progress(0.0)
    for now_s in range(1, 119):
        assert not watchdog.check(float(now_s), asleep(now_s))
        if watchdog.wants_ping():
            watchdog.pinged()
            watchdog.ponged()


def test_a_start_that_computes_may_take_long_and_one_that_sleeps_may_not() -> None:
    def starting() -> Watchdog:
        return Watchdog(5 * TIMEOUT_S, activity=START)

    assert stuck_after_s(starting(), asleep) <= 25
    assert stuck_after_s(starting(), alone) > 5 * TIMEOUT_S
