"""A thread for tasks that may never return, such as a tokenizer in an endless loop."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlxd.daemon.engine.tokenization.time_limit import alarm
from mlxd.daemon.stderr import error_summary, report

Task = Callable[[], None]
NO_THREAD = 70
"""Exit status of an engine that cannot replace such a thread (EX_SOFTWARE of sysexits.h)."""


class TaskThread:
    """Runs tasks one after another. If one does not return in time, another thread runs the rest.

    Native code cannot be interrupted: the thread that runs it is left to itself.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._current: object = None
        """Identifies the thread that runs tasks. One that was replaced ends after its task."""

    def submit(self, task: Task) -> None:
        """Run a task after those that wait.

        Raises:
            RuntimeError: the system starts no more threads.
        """
        if self._current is None:
            self._start()
        self._tasks.put(task)

    @contextmanager
    def limit(self, seconds: float, give_up: Task) -> Iterator[None]:
        """Inside a task: if the block takes longer, call `give_up` and run the next task."""

        def replace() -> None:
            report(f"A task on {self._name} did not return; it is given up.")
            give_up()
            try:
                self._start()
            except RuntimeError as exc:
                report("No thread can take its place:", error_summary(exc))
                sys.stderr.flush()
                os._exit(NO_THREAD)

        with alarm(seconds, replace):
            yield

    def _start(self) -> None:
        before, self._current = self._current, object()
        run = threading.Thread(target=self._run, args=(self._current,), name=self._name)
        run.daemon = True
        try:
            run.start()
        except RuntimeError:
            self._current = before
            raise

    def _run(self, current: object) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except BaseException as exc:  # the next tasks need this thread
                report("A task failed:", error_summary(exc))
            if self._current is not current:
                return
