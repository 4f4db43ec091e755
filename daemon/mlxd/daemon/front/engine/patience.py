"""Decides when an engine is stuck. Pure: what was seen of it goes in, a verdict comes out.

The engine says what it is about to do and how long that normally takes on that model. Its silence
is measured in time of its own: seconds in which it waited for a core, for a disk or for a compiler
do not count, so that a busy machine makes nobody look stuck.
"""

from __future__ import annotations

from dataclasses import dataclass

START, COMPUTE, LOAD, WAIT = "start", "compute", "load", "wait"

LEAST_S = 5.0
TIMES = 10.0
"""A step or chunk may take `LEAST_S`, and so many times what the engine expects of it besides. What
it expects is at least a second. Ten times: a chunk deep in a long prompt takes several times as
long as the first ones, which are all that was measured."""
IDLE_S = 5.0
"""An engine that computes on the CPU uses it. One whose threads all sleep for so long waits for
something that will not come."""
START_IDLE_S = 20.0
"""Likewise for an engine that is starting, which may wait for a device or a slow file system."""
IDLE_SHARE = 0.02
"""Share of a core below which all threads are said to sleep: timers and the link take some."""
MUTE_S = 10.0
"""How long an engine that hardly runs may leave a ping unanswered. It is stopped, or a native call
holds its interpreter: threads that want it wake up 200 times a second, and on a busy machine queue
each time, so that only what they ran tells them from one that computes."""
DEAF_S = 30.0
"""How long an engine that only waits may leave a ping unanswered. Its link has a thread of its own,
which one long call of a tokenizer can hold up."""
PING_AFTER_S = 2.0
LOOK_MAX_S = 4.0
"""What one look adds to the silence at most: the machine may have slept since the last one, or the
front itself did not get to run."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the system says of the threads of an engine; seconds since they began, all together."""

    cpu_s: float
    queued_s: float
    """Ready to run, while others had the cores."""
    held_up: bool = False
    """A thread waits for a disk, or a compiler works for the engine."""
    ready: bool = False
    """A thread would run. Where none ran all the same, a quota of the container held it."""


@dataclass(slots=True)
class Patience:
    """Feed it with `heard`, `doing` and `look`. Times are seconds of any steady clock."""

    ceiling_s: float
    """The longest silence of all, whatever the engine does (`engine_progress_timeout_s`)."""
    uses_cpu: bool = False
    """Whether the engine computes on the CPU. Where a GPU computes its threads may sleep."""
    what: str = WAIT
    expected_s: float | None = None
    silent_s: float = 0.0
    _own_s: float = 0.0
    _idle_s: float = 0.0
    _deaf_s: float = 0.0
    _mute_s: float = 0.0
    _looked_s: float = 0.0
    _before: Sight | None = None
    _pinged: bool = False

    def heard(self, now_s: float) -> None:
        """The engine made progress, or got something to do."""
        self._looked_s = now_s
        self.silent_s = self._own_s = self._idle_s = self._deaf_s = self._mute_s = 0.0
        self._before = None
        self._pinged = False

    def doing(self, what: str, expected_s: float | None) -> None:
        """Take in what the engine is about to do; None: nobody knows how long that takes."""
        self.what, self.expected_s = what, expected_s

    def ponged(self) -> None:
        """The engine's link answered a ping, which is no progress."""
        self._deaf_s = self._mute_s = 0.0
        self._pinged = False

    def wants_ping(self) -> bool:
        """Whether to send a ping now. Say so with `pinged`."""
        return self.silent_s >= PING_AFTER_S and not self._pinged and self.what in (WAIT, COMPUTE)

    def pinged(self) -> None:
        self._pinged = True
        self._deaf_s = self._mute_s = 0.0

    def look(self, now_s: float, sight: Sight | None) -> str:
        """Take in what is seen of a silent engine; returns why it is stuck, or nothing."""
        passed_s = min(now_s - self._looked_s, LOOK_MAX_S)
        self._looked_s = now_s
        own_s = passed_s * self._own_share(passed_s, sight)
        self._before = sight
        self.silent_s += passed_s
        self._own_s += own_s
        if self._pinged:
            self._deaf_s += own_s
        return self._verdict()

    def _own_share(self, passed_s: float, sight: Sight | None) -> float:
        """Return which share of the time since the last look the engine had for itself."""
        before = self._before
        if sight is None or before is None:
            return 1.0
        if sight.held_up:
            self._idle_s = 0.0
            return 0.0
        ran_s = max(0.0, sight.cpu_s - before.cpu_s)
        queued_s = max(0.0, sight.queued_s - before.queued_s)
        runs = ran_s >= IDLE_SHARE * passed_s
        self._mute_s = self._mute_s + passed_s if self._pinged and not runs else 0.0
        asleep = ran_s + queued_s < IDLE_SHARE * passed_s
        if asleep and not sight.ready:
            self._idle_s += passed_s
            return 1.0
        self._idle_s = 0.0
        if asleep:
            return 0.0
        return ran_s / (ran_s + queued_s)

    def _verdict(self) -> str:
        if self.silent_s > self.ceiling_s:
            return f"no progress for {self.silent_s:.0f} s"
        if self._mute_s >= MUTE_S and self.what in (WAIT, COMPUTE):
            return f"no answer from its link for {self._mute_s:.0f} s"
        if self._deaf_s >= DEAF_S and self.what == WAIT:
            return f"no answer from its link for {self._deaf_s:.0f} s"
        if self.what == START and self._idle_s >= START_IDLE_S:
            return f"all its threads slept for {self._idle_s:.0f} s as it started"
        if self.what == COMPUTE:
            return self._computing()
        return ""

    def _computing(self) -> str:
        if self.uses_cpu and self._idle_s >= IDLE_S:
            return f"all its threads slept for {self._idle_s:.0f} s in the middle of a step"
        if self.expected_s is None:
            return ""
        if self._own_s > limit_s(self.expected_s):
            return (
                f"no progress for {self.silent_s:.0f} s in a step that takes "
                f"{self.expected_s:.0f} s at most by what was measured"
            )
        return ""


def limit_s(expected_s: float) -> float:
    """Return how much time of its own an engine may take for a step."""
    return LEAST_S + TIMES * expected_s
