"""The watchdog's decision that an engine is stuck, with simulated time and processes."""

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


def main_thread_computes(now_s: float) -> ProcessTimes:
    return process(main=ThreadTimes(cpu_s=now_s, queued_s=0.0))


def starved(now_s: float) -> ProcessTimes:
    """The main thread gets a tenth of the CPU time that it could use."""
    return process(main=ThreadTimes(cpu_s=0.1 * now_s, queued_s=0.9 * now_s))


def starved_worker(now_s: float) -> ProcessTimes:
    """The main thread waits for one of MLX's own threads, which gets a tenth of a core."""
    return process(worker=ThreadTimes(cpu_s=0.1 * now_s, queued_s=0.9 * now_s))


def polling(now_s: float) -> ThreadTimes:
    """A thread that polls for the GIL on a busy machine: it wakes up often and queues each time."""
    return ThreadTimes(cpu_s=0.03 * now_s, queued_s=0.6 * now_s)


def holds_the_gil(now_s: float) -> ProcessTimes:
    return replace(process(worker=polling(now_s), link=polling(now_s)), runnable=True)


def spins_in_python(now_s: float) -> ProcessTimes:
    """The main thread runs half of the time, while two others poll for the GIL."""
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
    """Return after how many seconds the engine counts as stuck, or infinity if never.

    With `answers`, its link answers every ping.
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


def test_a_step_whose_threads_all_sleep_is_stuck_within_seconds() -> None:
    assert stuck_after_s(computing(), asleep, answers=True) <= 7
    assert stuck_after_s(computing(expected_s=500.0), asleep) <= 7, "however long the step may take"


def test_sleeping_threads_do_not_count_as_stuck_while_a_gpu_computes() -> None:
    watchdog = computing(5.0, uses_cpu=False)
    assert stuck_after_s(watchdog, asleep, answers=True) > limit_s(5.0)


def test_a_spinning_step_is_stuck_after_a_multiple_of_its_expected_time() -> None:
    assert limit_s(1.0) < stuck_after_s(computing(1.0), main_thread_computes) <= limit_s(1.0) + 2
    assert limit_s(4.0) < stuck_after_s(computing(4.0), main_thread_computes) <= limit_s(4.0) + 2


def test_a_step_slowed_by_a_busy_machine_is_not_stuck() -> None:
    limit = limit_s(1.0)
    assert stuck_after_s(computing(1.0), starved, answers=True) > 7 * limit
    assert stuck_after_s(computing(1.0), starved_worker, answers=True) > 7 * limit
    assert stuck_after_s(computing(1.0), starved_worker) > 7 * limit, "it may hold the GIL"
    assert stuck_after_s(computing(1.0), throttled, answers=True) > 7 * limit


def test_a_step_blocked_on_disk_or_compiler_gets_the_longest_timeout() -> None:
    assert stuck_after_s(computing(1.0), waits_for_the_disk, answers=True) > TIMEOUT_S


@pytest.mark.parametrize("measured", [asleep, main_thread_computes, starved, unknown])
def test_a_load_is_stuck_only_after_the_progress_timeout(measured: Measured) -> None:
    loading = Watchdog(TIMEOUT_S, uses_cpu=True, activity=LOAD)
    assert TIMEOUT_S < stuck_after_s(loading, measured) <= TIMEOUT_S + 2


def test_without_thread_times_only_the_elapsed_time_counts() -> None:
    assert limit_s(1.0) < stuck_after_s(computing(1.0), unknown) <= limit_s(1.0) + 2


def test_time_in_which_the_machine_slept_does_not_count() -> None:
    watchdog = computing(1.0)
    watchdog.progress(0.0)
    assert not watchdog.check(3600.0, None)
    assert watchdog.silent_s < 5


@pytest.mark.parametrize("activity", [COMPUTE, WAIT])
def test_an_engine_that_holds_the_gil_is_stuck_even_on_a_busy_machine(
    activity: str,
) -> None:
    watchdog = Watchdog(TIMEOUT_S, uses_cpu=True, activity=activity, expected_s=1.0)
    assert stuck_after_s(watchdog, holds_the_gil) <= 14


def test_threads_polling_for_the_gil_do_not_hide_a_spinning_thread() -> None:
    assert stuck_after_s(computing(1.0), spins_in_python) <= 2 * limit_s(1.0) + 3


def test_progress_resets_the_watchdog() -> None:
    watchdog = computing(1.0)
    watchdog.progress(0.0)
    for now_s in range(1, 1000):
        assert not watchdog.check(float(now_s), main_thread_computes(now_s))
        if now_s % 10 == 0:
            watchdog.progress(float(now_s))


def test_a_waiting_engine_that_does_not_answer_pings_is_stuck() -> None:
    def waiting() -> Watchdog:
        return Watchdog(TIMEOUT_S, uses_cpu=True, activity=WAIT)

    assert stuck_after_s(waiting(), asleep) <= 15, "it is stopped"
    assert 30 < stuck_after_s(waiting(), main_thread_computes) <= 40, "a long call holds the GIL"
    assert stuck_after_s(waiting(), starved) > TIMEOUT_S - 1


def test_a_waiting_engine_that_answers_pings_is_not_stuck() -> None:
    watchdog = Watchdog(TIMEOUT_S, uses_cpu=True, activity=WAIT)
    watchdog.progress(0.0)
    for now_s in range(1, 119):
        assert not watchdog.check(float(now_s), asleep(now_s))
        if watchdog.wants_ping():
            watchdog.pinged()
            watchdog.ponged()


def test_a_start_that_sleeps_is_stuck_sooner_than_one_that_computes() -> None:
    def starting() -> Watchdog:
        return Watchdog(5 * TIMEOUT_S, activity=START)

    assert stuck_after_s(starting(), asleep) <= 25
    assert stuck_after_s(starting(), main_thread_computes) > 5 * TIMEOUT_S
