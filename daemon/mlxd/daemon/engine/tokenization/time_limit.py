"""A time limit for Python code on the current thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitExceeded(Exception):
    """Raised in the thread whose code did not finish in time."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in this thread if the block takes longer than `seconds`.

    The exception interrupts Python code between two bytecodes. A call of native code is interrupted
    only when it returns.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    finished = threading.Event()
    lock = threading.Lock()

    def expire() -> None:
        with lock:
            if not finished.is_set():
                _raise_in(thread, ctypes.py_object(TimeLimitExceeded))

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            finished.set()
        timer.cancel()
        _raise_in(thread, None)  # withdraws an exception that was set but not raised yet


def _raise_in(thread: ctypes.c_ulong, exception: ctypes.py_object[type[Exception]] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, exception)
