"""Stores conversations without blocking the event loop.

One thread owns the database, so operations happen in order: a conversation that is continued right
after an answer contains that answer.
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
"""A function that writes the end of the turn with this number."""

CLOSE_S = 3.0
BEGIN_WAIT_S = 2.0
"""Longest wait of an answer for the database, in seconds."""
UNWRITTEN_MOST = 256
"""Maximum number of completions that are not yet written to the database."""


@dataclass(slots=True)
class Recording:
    """A turn that is being stored.

    The database thread sets `number` and `problem` before `begun` is done. The number is valid in
    `store` only.
    """

    turn: Turn
    begun: Future[None] = field(default_factory=Future)
    number: int | None = None
    store: Store | None = None
    problem: str = ""
    parts: list[str] = field(default_factory=list)


class Recorder:
    """The stored conversations of one daemon. The database is opened at its first use."""

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
        """Run `work` on the database and return its result.

        Raises:
            MlxdError: `work` raised it, or the database cannot be used.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker(), self._call, work)

    def in_order(self, conversation: str, scope: str | None) -> asyncio.Lock:
        """Return the lock that keeps the requests of one conversation in order."""
        key = f"last of {scope}" if conversation == "last" else conversation
        lock = self._in_order.get(key)
        if lock is None:
            lock = self._in_order[key] = asyncio.Lock()
        return lock

    def look(self) -> None:
        """Detect that an idle database was removed or replaced."""
        if self._store is not None:
            self._later(self._look)

    def begin(self, turn: Turn) -> Recording:
        """Store the beginning of a turn."""
        recording = Recording(turn)
        try:
            recording.begun = self._worker().submit(self._begin, recording)
        except RuntimeError as exc:  # the system starts no more threads
            recording.problem = self._failed(exc)
            recording.begun.set_result(None)
        return recording

    def when_begun(self, recording: Recording, then: Callable[[], None]) -> None:
        """Call `then` when the turn is stored, when storing failed, or when the disk is too
        slow."""
        if recording.begun.done():
            then()
            return
        begun = asyncio.wrap_future(recording.begun)
        waiting = asyncio.ensure_future(asyncio.wait({begun}, timeout=BEGIN_WAIT_S))
        # Kept in a set, because the event loop has only weak references to tasks.
        self._awaited.add(waiting)
        waiting.add_done_callback(self._awaited.discard)
        waiting.add_done_callback(lambda _: then())

    def finish(self, recording: Recording, result: dict[str, Any]) -> None:
        """Store the answer.

        The result gets the conversation, or the reason why it is not stored.
        """
        if not recording.begun.done():
            note = "The disk is slow. It is not known yet whether this answer will be stored."
            result["applied"]["notes"].append(note)
        if recording.problem:
            note = f"This answer is not stored: {recording.problem}. Check it: mlxd doctor"
            result["applied"]["notes"].append(note)
        else:
            result["conversation"] = recording.turn.conversation
            self._later(self._finish, recording, result["choices"][0], result["usage"])

    def fail(self, recording: Recording, code: str) -> None:
        """Store the text of an incomplete turn so far.

        May be called again with more text.
        """
        self._later(self._fail, recording, code)

    def status(self) -> dict[str, Any]:
        """Return the state of the stored conversations for `status`."""
        return {
            "file": str(self._path),
            "problem": self.problem or None,
            "notice": self.notice or None,
        }

    async def close(self) -> None:
        """Write all pending completions and close the database."""
        if self._thread is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(closing, CLOSE_S)
            self._thread.shutdown(wait=False)

    # ---- on the database thread

    def _call(self, work: Callable[[Store], T]) -> T:
        self._catch_up()
        try:
            return work(self._opened())
        except MlxdError:
            raise
        except Exception as exc:
            raise MlxdError(
                f"The stored conversations cannot be used: {self._failed(exc)}.",
                hint="Check it: mlxd doctor",
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
        """Replace the database if it is damaged. Return False for any other error."""
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
            return  # its beginning could not be stored
        if len(self._unwritten) == UNWRITTEN_MOST:
            self._unwritten.popleft()
            self._log("answer not stored", level="error", error=self.problem)
        self._unwritten.append((recording, end))
        self._catch_up()

    def _catch_up(self) -> None:
        """Write the pending ends of turns.

        If one cannot be written because the database is locked or the disk is full, it is retried
        before the next operation.
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
            # The turn began in a database that no longer exists, so the whole turn is stored again.
            number = self._insert(recording)
        assert number is not None
        end(store, number)

    def _look(self) -> None:
        """Close a database whose file was removed or replaced."""
        how = self._store.lost() if self._store is not None else ""
        if not how:
            return
        assert self._store is not None
        self._store.abandon()
        self._store = None
        next_one = "a new database was created" if how == "removed" else "the new file is used"
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        self.notice = f"{self._path.name} was {how} (noticed {when}); {next_one}."
        self._log(f"conversations {how}", level="warning", file=str(self._path))

    def _opened(self) -> Store:
        self._look()
        if self._store is None:
            # Imported here because a daemon that stores nothing does not need SQLite.
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

    # ---- on any thread

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="conversations")
        return self._thread

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            self._worker().submit(work, *arguments)
        except RuntimeError as exc:  # the system starts no more threads
            self._failed(exc)


def full_scope(scope: str | None) -> str:
    """Return a scope that is unique across boots, because terminal names are reused."""
    if not scope:
        return ""
    return f"{scope}:{boot()}" if scope.startswith("tty:") else scope


@functools.lru_cache(1)
def boot() -> str:
    """Return an identifier of the current boot."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.check_output(command, text=True, timeout=5).strip()
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
