"""Puts conversations on disk without the event loop ever waiting for it.

One thread owns the database, so that what is asked of it happens in order: a conversation that is
continued right after an answer has that answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from mlxd.daemon.front.log import Log
from mlxd.protocol.errors import MlxdError

if TYPE_CHECKING:
    from mlxd.daemon.conversations.store import Store, Turn

T = TypeVar("T")
End = Callable[["Store", int], None]
"""Writes the end of the turn that has this number."""

CLOSE_S = 3.0
BEGIN_WAIT_S = 2.0
"""An answer is complete by then; a disk that takes longer must not hold it back."""
UNWRITTEN_MOST = 256
"""Ends of turns that are kept for a database which cannot be written now."""


@dataclass(slots=True)
class Recording:
    """A turn that is being stored. `number` and `problem` are set by the database's thread, before
    `begun` is done. The number is one of `store`: another database gives it to another turn.
    """

    turn: Turn
    begun: Future[None] = field(default_factory=Future)
    number: int | None = None
    store: Store | None = None
    problem: str = ""
    parts: list[str] = field(default_factory=list)


class Recorder:
    """Conversations of one daemon. The database is opened when it is first needed."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._store: Store | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._unwritten: deque[tuple[Recording, End]] = deque()
        self._in_order: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._awaited: set[asyncio.Future[Any]] = set()
        self.problem = ""
        self.notice = ""

    async def call(self, work: Callable[[Store], T]) -> T:
        """Return what `work` makes of the database.

        Raises:
            MlxdError: what `work` raises, or that the database cannot be used.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker(), self._call, work)

    def in_order(self, conversation: str, scope: str | None) -> asyncio.Lock:
        """Return the lock that keeps the requests of one conversation in the order they came in."""
        key = f"last of {scope}" if conversation == "last" else conversation
        lock = self._in_order.get(key)
        if lock is None:
            lock = self._in_order[key] = asyncio.Lock()
        return lock

    def look(self) -> None:
        """Notice a database that was removed or replaced while nobody uses it."""
        if self._store is not None:
            self._later(self._look)

    def begin(self, turn: Turn) -> Recording:
        """Store a turn that is about to be answered."""
        recording = Recording(turn)
        try:
            recording.begun = self._worker().submit(self._begin, recording)
        except RuntimeError as exc:  # The system starts no more threads.
            recording.problem = self._failed(exc)
            recording.begun.set_result(None)
        return recording

    def when_begun(self, recording: Recording, then: Callable[[], None]) -> None:
        """Call `then` once it is known whether the turn can be stored, or the disk is too slow."""
        if recording.begun.done():
            then()
            return
        begun = asyncio.wrap_future(recording.begun)
        waiting = asyncio.ensure_future(asyncio.wait({begun}, timeout=BEGIN_WAIT_S))
        # Held: the loop itself forgets a task that nobody else knows of.
        self._awaited.add(waiting)
        waiting.add_done_callback(self._awaited.discard)
        waiting.add_done_callback(lambda _: then())

    def finish(self, recording: Recording, result: dict[str, Any]) -> None:
        """Store the answer; the result says in which conversation, or why in none."""
        if not recording.begun.done():
            note = "The disk is slow: it is not known yet whether this answer will be stored."
            result["applied"]["notes"].append(note)
        if recording.problem:
            note = f"This answer is not stored: {recording.problem}. See mlxd doctor."
            result["applied"]["notes"].append(note)
        else:
            result["conversation"] = recording.turn.conversation
            self._later(self._finish, recording, result["choices"][0], result["usage"])

    def fail(self, recording: Recording, code: str) -> None:
        """Mark a turn whose answer breaks off, with what has come of it.

        May be called again once the rest is known.
        """
        self._later(self._fail, recording, code)

    def status(self) -> dict[str, Any]:
        """Return what `status` says of the stored conversations."""
        return {
            "file": str(self._path),
            "problem": self.problem or None,
            "notice": self.notice or None,
        }

    async def close(self) -> None:
        """Write what is still to be written."""
        if self._thread is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(closing, CLOSE_S)
            self._thread.shutdown(wait=False)

    # ---- on the thread

    def _call(self, work: Callable[[Store], T]) -> T:
        self._catch_up()
        try:
            return work(self._opened())
        except MlxdError:
            raise
        except Exception as exc:
            raise MlxdError(
                f"The stored conversations cannot be used: {self._failed(exc)}.",
                hint="See what is wrong: mlxd doctor",
            ) from exc

    def _begin(self, recording: Recording) -> None:
        self._catch_up()
        try:
            try:
                self._insert(recording)
            except Exception as exc:
                if not self._put_aside(exc):
                    raise
                self._insert(recording)
            self.problem = ""
        except Exception as exc:
            recording.problem = self._failed(exc)

    def _insert(self, recording: Recording) -> int:
        store = self._opened()
        recording.number, recording.store = store.begin(recording.turn), store
        return recording.number

    def _put_aside(self, exc: Exception) -> bool:
        """Begin a new database where the damage shows only now; False: it is something else."""
        from mlxd.daemon.conversations.store import is_damage

        if self._store is None or not is_damage(exc):
            return False
        self._use(self._store.replaced())
        return True

    def _finish(self, recording: Recording, choice: dict[str, Any], usage: dict[str, Any]) -> None:
        self._write(recording, lambda store, number: store.finish(number, choice, usage))

    def _fail(self, recording: Recording, code: str) -> None:
        partial = "".join(recording.parts)
        self._write(recording, lambda store, number: store.fail(number, code, partial))

    def _write(self, recording: Recording, end: End) -> None:
        if recording.number is None:
            return  # it could not be stored when it began
        if len(self._unwritten) == UNWRITTEN_MOST:
            self._unwritten.popleft()
            self._log("answer given up", level="error", error=self.problem)
        self._unwritten.append((recording, end))
        self._catch_up()

    def _catch_up(self) -> None:
        """Write the ends of turns. One that cannot be written now, because another program has
        the database or the disk is full, is tried again before the next work on it.
        """
        try:
            while self._unwritten:
                self._write_end(*self._unwritten[0])
                self._unwritten.popleft()
                self.problem = ""
        except Exception as exc:
            self._failed(exc, waiting=len(self._unwritten))

    def _write_end(self, recording: Recording, end: End) -> None:
        store, number = self._opened(), recording.number
        if recording.store is not store:
            # The turn began in a database that has gone: it is stored anew, whole.
            number = self._insert(recording)
        assert number is not None
        end(store, number)

    def _look(self) -> None:
        """Let go of a database whose file is no longer the one that is open."""
        how = self._store.lost() if self._store is not None else ""
        if not how:
            return
        assert self._store is not None
        self._store.abandon()
        self._store = None
        next_one = "a new one is begun" if how == "removed" else "the new file is used"
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        self.notice = f"{self._path.name} was {how} (noticed {when}); {next_one}."
        self._log(f"conversations {how}", level="warning", file=str(self._path))

    def _opened(self) -> Store:
        self._look()
        if self._store is None:
            # Imported here: an idle daemon whose callers store nothing needs no SQLite.
            from mlxd.daemon.conversations.store import Store

            self._use(Store(self._path))
        assert self._store is not None
        return self._store

    def _use(self, store: Store) -> None:
        self._store = store
        if store.damaged is not None:
            self._log("conversations damaged", level="error", kept=str(store.damaged))

    def _failed(self, exc: Exception, **fields: int) -> str:
        from mlxd.daemon.conversations.store import explain

        self.problem = explain(exc)
        self._log("conversation not stored", level="error", error=self.problem, **fields)
        return self.problem

    def _close(self) -> None:
        self._catch_up()
        if self._store is not None:
            self._store.close()
            self._store = None

    # ---- off the thread

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="conversations")
        return self._thread

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            self._worker().submit(work, *arguments)
        except RuntimeError as exc:  # The system starts no more threads.
            self._failed(exc)


def full_scope(scope: str | None) -> str:
    """Return a scope that no other terminal gets: their names are used again after a boot."""
    if not scope:
        return ""
    return f"{scope}:{boot()}" if scope.startswith("tty:") else scope


@functools.lru_cache(1)
def boot() -> str:
    """Return something that differs from boot to boot."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.check_output(command, text=True, timeout=5).strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
