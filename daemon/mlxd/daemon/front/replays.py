"""Decides which requests are retried after an engine died, and in which order.

A request that kills every engine must not take all others along: those that were under way when an
engine died are suspects, and are retried one at a time, each until it has output. A suspect that
is alone as a second engine dies under it is not retried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mlxd.daemon.front.completion import Completion
from mlxd.protocol.errors import EngineDied

SUSPECTED_MAX = 2
"""Engines that may die under one request, if it was the only suspect of the last."""
SHARED_MAX = 4
"""Engines that may die under one request among others."""
UNLUCKY_MAX = 3
"""Engines that may die before they have begun anything, for one request to wait for."""


def suspects(sent: Iterable[Completion], *, ready: bool) -> list[Completion]:
    """Return the requests without output that may be why an engine died.

    `sent` is what that engine had. One that was not `ready` yet died of something else. Where it
    had begun any, the others were only waiting.
    """
    known = list(sent) if ready else []
    if any(one.begun or one.output for one in known):
        return [one for one in known if one.begun and not one.output]
    return known


def refusal(one: Completion, why: str, *, alone: bool) -> EngineDied | None:
    """Return why a request whose engine died is not retried; None: it is.

    `alone`: there was no other suspect.
    """
    if one.output:
        return EngineDied(f"The engine died while it answered: {why}.")
    if one.suspected >= (SUSPECTED_MAX if alone else SHARED_MAX):
        return EngineDied(
            f"{one.suspected} engines died while they worked on this request, which seems to be "
            f"the cause: {why}.",
            hint="Do not send it again as it is. See what happened: mlxd logs -n 50",
            data={"suspected": True},
        )
    if one.unlucky >= UNLUCKY_MAX:
        return EngineDied(f"The engine died {one.unlucky} times before it answered: {why}.")
    return None


class Probation:
    """Suspects on their way to the next engine: one is there, the others are held back."""

    def __init__(self, submit: Callable[[Completion], None]) -> None:
        self._submit = submit
        self._current: Completion | None = None
        self._held: deque[Completion] = deque()

    def begin(self, queue: Iterable[Completion]) -> Completion | None:
        """Hold all but the first, which is returned, to be submitted."""
        self._held = deque(queue)
        self._current = self._held.popleft() if self._held else None
        return self._current

    def clear(self) -> list[Completion]:
        """Hold nothing any more; returns what was held."""
        held, self._held = list(self._held), deque()
        self._current = None
        return held

    def passed(self, one: Completion) -> None:
        """A request has output, or has ended: if it was the one that was tried, try the next."""
        if one is self._current:
            following = self.begin(list(self._held))
            if following is not None:
                self._submit(following)

    def drop(self, one: Completion) -> bool:
        """Take back a request that is held; False: it is not."""
        if one not in self._held:
            return False
        self._held.remove(one)
        return True
