"""Interrupts Python code that takes too long, such as a chat template that loops."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TimeLimitExceeded(Exception):
    """The block exceeded its time limit."""


class Watcher:
    """One thread that interrupts the blocks of all others, or calls what they asked for.

    It is started once, early. If memory or threads have run out, starting a thread fails or blocks
    forever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: dict[object, tuple[float, Callable[[], None]]] = {}
        threading.Thread(target=self._run, name="time limits", daemon=True).start()

    def begin(self, seconds: float, expired: Callable[[], None]) -> object:
        """Call `expired` on this class's thread unless `end` is called first, with the result."""
        block = object()
        with self._changed:
            self._blocks[block] = (time.monotonic() + seconds, expired)
            self._changed.notify()
        return block

    def end(self, block: object, then: Callable[[], None] | None = None) -> None:
        """End a block, and call `then`. `expired` is not called after that."""
        with self._changed:
            self._blocks.pop(block, None)
            if then is not None:
                then()

    def _run(self) -> None:
        with self._changed:
            while True:
                now_s = time.monotonic()
                for block, (deadline_s, expired) in list(self._blocks.items()):
                    if deadline_s <= now_s:
                        del self._blocks[block]
                        expired()
                nearest_s = min((one for one, _ in self._blocks.values()), default=None)
                self._changed.wait(None if nearest_s is None else nearest_s - now_s)


@functools.cache
def watcher() -> Watcher:
    """Return the watcher of this process. The first call starts it."""
    return Watcher()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in this thread if the block takes longer than `seconds`.

    The exception interrupts Python code between two bytecodes. Native code is interrupted only when
    it returns.
    """
    thread = threading.get_ident()
    block = watcher().begin(seconds, lambda: _raise_in(thread, TimeLimitExceeded))
    try:
        yield
    finally:
        # An exception that was not raised yet is withdrawn.
        watcher().end(block, lambda: _raise_in(thread, None))


@contextmanager
def alarm(seconds: float, ring: Callable[[], None]) -> Iterator[None]:
    """Call `ring` on another thread if the block takes longer than `seconds`. It must be quick."""
    block = watcher().begin(seconds, ring)
    try:
        yield
    finally:
        watcher().end(block)


def _raise_in(thread: int, exception: type[Exception] | None) -> None:
    raised = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
