"""Decides when an engine is stuck. Pure: measurements go in, a verdict comes out.

The engine announces its next activity and how long that normally takes for the model. The watchdog
measures the engine's silence in CPU time that was available to it: seconds in which the engine
waited for a core, a disk or a compiler do not count. A busy machine therefore makes no engine look
stuck. `docs/decisions/007-slow-or-stuck.md` explains the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

START, COMPUTE, LOAD, WAIT = "start", "compute", "load", "wait"

STEP_BASE_S = 3.0
STEP_FACTOR = 8.0
"""A step may take `STEP_BASE_S` plus this multiple of the announced time, which is at least one
second. Chunks deep in a long prompt take several times as long as the first ones, and only the
first ones have been measured."""
ASLEEP_S = 5.0
"""An engine that computes on the CPU uses CPU time. If all its threads sleep for this long, it
waits for something that will not happen."""
START_ASLEEP_S = 20.0
"""The same for an engine that is starting and may wait for a device or a slow file system."""
ASLEEP_SHARE = 0.02
"""Below this share of a core, all threads count as asleep. Timers and the link use a little."""
POLLING_SHARE = 0.05
"""Share of a core above which a thread cannot be one that polls for Python's global lock (GIL)."""
UNRESPONSIVE_S = 8.0
"""Longest wait for the answer to a ping while the compute thread does not run, because the process
is stopped or a native call holds the GIL. Threads that wait for the GIL wake up 200 times a second,
and on a busy machine each wake-up waits for a core. They must not be mistaken for threads that
compute."""
PING_TIMEOUT_S = 30.0
"""Longest wait for the answer to a ping while the engine waits for requests. The link has its own
thread, but a long call of a tokenizer can delay it."""
PING_AFTER_S = 2.0
CHECK_GAP_MAX_S = 4.0
"""Longest time that one check adds to the silence. A longer gap means that the machine slept, or
that the front itself could not run."""


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """CPU time of a thread so far."""

    cpu_s: float
    queued_s: float
    """Time that the thread was ready to run while others used the cores."""


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Times of all threads of an engine, by thread id, and what the process is waiting for."""

    threads: Mapping[int, ThreadTimes]
    main: int
    """The id of the main thread, which computes."""
    blocked: bool = False
    """A thread waits for a disk, or the engine waits for a compiler."""
    runnable: bool = False
    """A thread is ready to run. If none ran nevertheless, a CPU quota stopped it."""


@dataclass(frozen=True, slots=True)
class _Usage:
    """The activity of the threads between two checks."""

    cpu_s: float
    queued_s: float
    busiest: ThreadTimes
    """The largest demand of a thread: the time that it ran or waited for a core."""
    longest_cpu_s: float
    main_ran: bool


@dataclass(slots=True)
class Watchdog:
    """Call `progress`, `announced`, `pinged` and `ponged` when they happen, and `check` every
    second.

    Times are seconds of any monotonic clock.
    """

    timeout_s: float
    """Longest silence in any activity (`engine_progress_timeout_s`)."""
    uses_cpu: bool = False
    """Whether the engine computes on the CPU. Its threads may sleep while a GPU computes."""
    activity: str = WAIT
    expected_s: float | None = None
    silent_s: float = 0.0
    _available_s: float = 0.0
    """The part of the silence in which the engine could run."""
    _asleep_s: float = 0.0
    _unanswered_s: float = 0.0
    """Available time since the ping."""
    _unresponsive_s: float = 0.0
    """Time since the ping in which the compute thread did not run."""
    _checked_s: float = 0.0
    _times: ProcessTimes | None = None
    _ping_pending: bool = field(default=False)

    def progress(self, now_s: float) -> None:
        """Record that the engine made progress, or got work after a pause."""
        self._checked_s = now_s
        self.silent_s = self._available_s = self._asleep_s = 0.0
        self._times = None
        self.ponged()

    def announced(self, activity: str, expected_s: float | None) -> None:
        """Record the engine's next activity. `expected_s` is None if no estimate exists."""
        self.activity, self.expected_s = activity, expected_s

    def ponged(self) -> None:
        """Record the answer to a ping. It shows that the link works but is not progress."""
        self._unanswered_s = self._unresponsive_s = 0.0
        self._ping_pending = False

    def wants_ping(self) -> bool:
        """Whether the caller must send a ping now, and then call `pinged`."""
        silent = self.silent_s >= PING_AFTER_S
        return silent and not self._ping_pending and self.activity in (WAIT, COMPUTE)

    def pinged(self) -> None:
        """Record that a ping was sent."""
        self._ping_pending = True
        self._unanswered_s = self._unresponsive_s = 0.0

    def check(self, now_s: float, times: ProcessTimes | None) -> str:
        """Return why the engine is stuck, or "" if it is not.

        `times` is None if the system does not report them. Then all time counts as available.
        """
        elapsed_s = min(now_s - self._checked_s, CHECK_GAP_MAX_S)
        self._checked_s = now_s
        self.silent_s += elapsed_s
        available_s = elapsed_s * self._available_share(elapsed_s, times)
        self._times = times
        self._available_s += available_s
        if self._ping_pending:
            self._unanswered_s += available_s
        return self._verdict()

    def _available_share(self, elapsed_s: float, times: ProcessTimes | None) -> float:
        """Return the share of the time since the last check in which the engine could run."""
        before = self._times
        if times is None or before is None:
            return 1.0
        if times.blocked:
            self._asleep_s = self._unresponsive_s = 0.0
            return 0.0
        usage = _usage(before, times)
        self._note_unresponsive(elapsed_s, usage)
        if usage.cpu_s + usage.queued_s >= ASLEEP_SHARE * elapsed_s:
            self._asleep_s = 0.0
            return usage.busiest.cpu_s / (usage.busiest.cpu_s + usage.busiest.queued_s)
        if times.runnable:
            self._asleep_s = 0.0
            return 0.0
        self._asleep_s += elapsed_s
        return 1.0

    def _note_unresponsive(self, elapsed_s: float, usage: _Usage) -> None:
        polling = not usage.main_ran and usage.longest_cpu_s < POLLING_SHARE * elapsed_s
        if self._ping_pending and (polling or usage.cpu_s < ASLEEP_SHARE * elapsed_s):
            self._unresponsive_s += elapsed_s
        else:
            self._unresponsive_s = 0.0

    def _verdict(self) -> str:
        if self.silent_s > self.timeout_s:
            return f"no progress for {self.silent_s:.0f} s"
        if self._unresponsive_s >= UNRESPONSIVE_S and self.activity in (WAIT, COMPUTE):
            return f"no answer to a ping for {self._unresponsive_s:.0f} s"
        if self._unanswered_s >= PING_TIMEOUT_S and self.activity == WAIT:
            return f"no answer to a ping for {self._unanswered_s:.0f} s"
        if self.activity == START and self._asleep_s >= START_ASLEEP_S:
            return f"all its threads slept for {self._asleep_s:.0f} s while it started"
        if self.activity == COMPUTE:
            return self._step_verdict()
        return ""

    def _step_verdict(self) -> str:
        if self.uses_cpu and self._asleep_s >= ASLEEP_S:
            return f"all its threads slept for {self._asleep_s:.0f} s in the middle of a step"
        if self.expected_s is not None and self._available_s > limit_s(self.expected_s):
            return (
                f"no progress for {self.silent_s:.0f} s in a step that was expected to take "
                f"{self.expected_s:.0f} s at most"
            )
        return ""


def limit_s(expected_s: float) -> float:
    """Return the available time that a step may take before the engine counts as stuck."""
    return STEP_BASE_S + STEP_FACTOR * expected_s


def _usage(before: ProcessTimes, after: ProcessTimes) -> _Usage:
    """Return the activity of the threads between two measurements.

    A new thread started from zero.
    """
    nothing = ThreadTimes(0.0, 0.0)
    spent = {tid: _since(before.threads.get(tid, nothing), t) for tid, t in after.threads.items()}
    every = list(spent.values()) or [nothing]
    main = spent.get(after.main, nothing)
    return _Usage(
        cpu_s=sum(one.cpu_s for one in every),
        queued_s=sum(one.queued_s for one in every),
        busiest=max(every, key=lambda one: one.cpu_s + one.queued_s),
        longest_cpu_s=max(one.cpu_s for one in every),
        main_ran=main.cpu_s + main.queued_s > 0.0,
    )


def _since(before: ThreadTimes, after: ThreadTimes) -> ThreadTimes:
    cpu_s = max(0.0, after.cpu_s - before.cpu_s)
    return ThreadTimes(cpu_s, max(0.0, after.queued_s - before.queued_s))
