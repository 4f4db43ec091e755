"""Decides which requests are retried after an engine crash, and in which order.

A request that crashes every engine must not end all other requests. Requests whose prompt was being
computed when an engine died are suspects. They are retried one at a time, each until it has output.
If the engine dies again and only one request is suspect, that request is not retried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mlxd.daemon.front.completion import Completion
from mlxd.protocol.errors import EngineDied

SOLE_SUSPECT_DEATHS_MAX = 2
"""Number of deaths after which a request is not retried if it was the only suspect of the last
one."""
SUSPECT_DEATHS_MAX = 4
"""The same if there were other suspects."""
OTHER_DEATHS_MAX = 3
"""The same for deaths without a suspect, before the engine computed anything."""


def suspects(sent: Iterable[Completion], *, ready: bool) -> list[Completion]:
    """Return the requests without output that may have killed the engine.

    `sent` are all requests that the engine had. None is suspect if the engine was not `ready` yet.
    If the engine had begun to compute any of them, those that were still waiting are not suspect.
    """
    known = list(sent) if ready else []
    if any(one.begun or one.output for one in known):
        return [one for one in known if one.begun and not one.output]
    return known


def refusal(one: Completion, why: str, *, alone: bool) -> EngineDied | None:
    """Return the error for a request whose engine died, or None if the request is retried.

    `alone` tells that there was no other suspect.
    """
    if one.output:
        return EngineDied(f"The engine died while it answered: {why}.")
    if one.suspect_deaths >= (SOLE_SUSPECT_DEATHS_MAX if alone else SUSPECT_DEATHS_MAX):
        return EngineDied(
            f"{one.suspect_deaths} engines died while they worked on this request, "
            f"which is probably the cause: {why}.",
            hint="Do not send it again unchanged. See the log: mlxd logs -n 50",
            data={"suspected": True},
        )
    if one.other_deaths >= OTHER_DEATHS_MAX:
        return EngineDied(f"The engine died {one.other_deaths} times before it answered: {why}.")
    return None


class Probation:
    """Retries suspects one at a time. One is with the engine, and the others are held back."""

    def __init__(self, submit: Callable[[Completion], None]) -> None:
        self._submit = submit
        self._current: Completion | None = None
        self._held: deque[Completion] = deque()

    def begin(self, queue: Iterable[Completion]) -> Completion | None:
        """Hold all but the first request, and return the first for the caller to submit."""
        self._held = deque(queue)
        self._current = self._held.popleft() if self._held else None
        return self._current

    def clear(self) -> list[Completion]:
        """End the probation and return the requests that were held."""
        held, self._held = list(self._held), deque()
        self._current = None
        return held

    def passed(self, one: Completion) -> None:
        """Submit the next suspect if the one being retried was `one`, which has output or has
        ended."""
        if one is self._current:
            following = self.begin(list(self._held))
            if following is not None:
                self._submit(following)

    def drop(self, one: Completion) -> bool:
        """Remove a held request. Return False if it was not held."""
        if one not in self._held:
            return False
        self._held.remove(one)
        return True
