"""Starts the engine when it is needed, restarts it after a crash, and kills it when it is stuck."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mlxd.daemon.front.engine.process import EngineLink, describe_exit, wait_for_exit
from mlxd.daemon.front.engine.process_stats import process_times
from mlxd.daemon.front.engine.watchdog import START, Watchdog
from mlxd.daemon.prompt_bound import PromptBound
from mlxd.daemon.stderr import error_summary
from mlxd.protocol.errors import EngineDied, error_from_map
from mlxd.protocol.messages import Message, Notification, Request, Response

EVICTED_KEPT = 8
CRASH_WINDOW_S = 60.0
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
CHECK_PERIOD_S = 1.0
READ_TIMES_AFTER_S = 2.0
"""Silence after which the CPU times of the engine's threads are read, which takes milliseconds."""
START_TIMEOUT_FACTOR = 5
"""Start-up timeout, as a multiple of `engine_progress_timeout_s`. Imports are slow on a busy disk
or CPU, and a replacement for the killed engine would start no faster."""
STOP_GRACE_S = 8.0
"""Time for the engine to finish its step and to write its prompt caches to disk."""
EXIT_GRACE_S = 2.0
HEALTH_WAIT_S = 1.0
"""New requests are refused if the next start is further away than this."""
STDERR_LINES = 8
PING_ID = 0
"""The request id of all pings. Calls are numbered from 1."""
CALL_RETRIES = 1
"""How often a call is retried after the engine died during it. Calls are idempotent."""


class Call:
    """A request to the engine whose response is pending."""

    def __init__(self, method: str, params: dict[str, Any]) -> None:
        self.method = method
        self.params = params
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.tries = 0
        self.id = 0


class EngineUser(Protocol):
    """Who has requests at the engine. The supervisor reports to it."""

    @property
    def busy(self) -> bool:
        """Whether the engine has work."""
        ...

    def step(self, events: list[Any]) -> None:
        """Handle the events of an engine step."""

    def engine_died(self, why: str, ready: bool) -> list[Message]:
        """Handle a crash. Return the requests to submit to the next engine."""
        ...

    def resubmit(self) -> list[Message]:
        """Return the requests to submit to the next engine, after a planned exit."""
        ...


class Supervisor:
    """Owns the engine process and its link, for one `user`."""

    def __init__(
        self,
        command: list[str],
        stderr_path: Path,
        user: EngineUser,
        *,
        progress_timeout_s: float,
        log: Callable[..., None],
    ) -> None:
        self._command = command
        self._stderr_path = stderr_path
        self._progress_timeout_s = progress_timeout_s
        self._user = user
        self._log = log
        self._link: EngineLink | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiting: list[Message] = []
        self._calls: dict[int, Call] = {}
        self._ids = itertools.count(1)
        self._crashes: deque[float] = deque(maxlen=16)
        self._watchdog = Watchdog(progress_timeout_s)
        self._stopping = False
        self._kill_reason = ""
        self._check_timer: asyncio.TimerHandle | None = None
        self._cleanup: asyncio.Task[None] | None = None
        self._start_at_s = 0.0
        self._was_ready = False
        self.hello: dict[str, Any] = {}
        self.loaded_models: list[dict[str, Any]] = []
        self.evicted: deque[dict[str, Any]] = deque(maxlen=EVICTED_KEPT)
        """The last evictions: model, bytes, reason, and the time in seconds since 1970."""
        self.prompt_bounds: dict[str, PromptBound] = {}
        """Path of a loaded model to the bound by which its prompts are refused."""
        self.restarts = 0
        self.last_exit = ""

    # ---- what the front calls

    @property
    def running(self) -> bool:
        return self._link is not None

    @property
    def pid(self) -> int | None:
        return self._link.pid if self._link is not None else None

    def send(self, message: Message) -> None:
        """Send a message to the engine. Starts the engine if necessary."""
        if self._link is not None and self._starting is None:
            if self._check_timer is None:
                self._watchdog.progress(time.monotonic())
                self._schedule_check()
            self._link.send(message)
        else:
            self._waiting.append(message)
            self._ensure()

    def withdraw(self, request_id: int) -> bool:
        """Withdraw a `submit` that was not sent yet. Return False if it was sent."""
        kept = [message for message in self._waiting if not _is_submit(message, request_id)]
        withdrawn = len(kept) < len(self._waiting)
        self._waiting = kept
        return withdrawn

    def replace(self, why: str) -> None:
        """Kill the engine. Requests without output are retried on the next one."""
        if self._link is not None:
            self._kill_reason = why
            self._link.kill()

    def check_health(self) -> None:
        """Raise EngineDied while the restart is delayed because engines keep dying."""
        wait_s = self._start_at_s - time.monotonic()
        if self._link is None and wait_s > HEALTH_WAIT_S:
            raise EngineDied(
                f"The engine keeps dying: {self.last_exit}.",
                hint=f"The next start is in {wait_s:.0f} s. See the log: mlxd logs -n 50",
                data={"retry_after_s": round(wait_s, 1), "restarts": self.restarts},
            )

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Send a request to the engine and return the result.

        Raises the engine's error, or EngineDied.
        """
        self.check_health()
        call = Call(method, params)
        try:
            self._send_call(call)
            return await call.future
        finally:
            self._drop(call)

    def status(self) -> dict[str, Any]:
        """Return the engine's part of `status`."""
        state = "running" if self._link else "starting" if self._starting else "stopped"
        if state == "starting" and self._start_at_s > time.monotonic():
            state = "backing off"
        keys = ("device", "backend", "blas", "mlx", "mlx_lm", "memory_budget_bytes")
        return {
            "state": state,
            "pid": self.pid,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            **{key: self.hello[key] for key in keys if key in self.hello},
        }

    async def stop(self) -> None:
        """End the engine. It may finish its step, and is killed after `STOP_GRACE_S`."""
        self._stopping = True
        if self._check_timer is not None:
            self._check_timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
        link = self._link
        if link is None:
            return
        link.hang_up()
        await wait_for_exit(link.process, STOP_GRACE_S)
        link.release()

    # ---- starting

    def _ensure(self) -> None:
        # The cleanup after the last engine decides which of its requests are retried.
        idle = self._link is None and self._starting is None and self._cleanup is None
        if idle and not self._stopping:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add_done_callback(self._task_done)

    async def _start(self) -> None:
        backoff_s = self._backoff_s()
        self._start_at_s = time.monotonic() + backoff_s
        await asyncio.sleep(backoff_s)
        try:
            link = EngineLink(self._command, self._stderr_path, self._received, self._ended)
            await link.connect()
        except OSError as exc:
            self._starting = None
            self._was_ready = False
            self._died(f"it could not be started: {exc}")
            return
        self._log("engine started", engine_pid=link.pid)
        timeout_s = START_TIMEOUT_FACTOR * self._progress_timeout_s
        self._watchdog = Watchdog(timeout_s, activity=START)
        self._link, self._starting = link, None
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.send(message)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """Treat an unexpected error in a start or a cleanup as a crash: a restart follows."""
        if task.cancelled() or (exc := task.exception()) is None or self._stopping:
            return
        self._starting = self._cleanup = None
        self._died(f"the supervisor failed: {error_summary(exc)}")

    def _backoff_s(self) -> float:
        now = time.monotonic()
        recent = sum(1 for when in self._crashes if now - when < CRASH_WINDOW_S)
        if recent <= 1:
            return 0.0
        return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (recent - 2)))

    # ---- received messages

    def _received(self, link: EngineLink, message: Message) -> None:
        if isinstance(message, Response) and message.id == PING_ID:
            self._watchdog.ponged()
            return
        self._watchdog.progress(time.monotonic())
        if isinstance(message, Response):
            self._answered(message)
        elif isinstance(message, Notification):
            if message.method == "step":
                self._user.step(message.params["events"])
            elif message.method == "activity":
                self._watchdog.announced(message.params["activity"], message.params["expected_s"])
            elif message.method == "resident":
                self.loaded_models = message.params["models"]
                self._note_evictions(message.params.get("evicted", ()))
                bounds = message.params.get("prompt_bounds", {})
                self.prompt_bounds = {
                    path: PromptBound.from_map(raw) for path, raw in bounds.items()
                }
            elif message.method == "hello":
                self.hello = message.params
                on_cpu = message.params.get("device") == "cpu"
                self._watchdog = Watchdog(self._progress_timeout_s, uses_cpu=on_cpu)
                self._watchdog.progress(time.monotonic())
            elif message.method == "bye":
                link.said_bye = True

    def _note_evictions(self, evicted: Iterable[dict[str, Any]]) -> None:
        for one in evicted:
            self._log("evicted", **one)
            self.evicted.append({**one, "at": round(time.time(), 3)})

    def _answered(self, response: Response) -> None:
        call = self._calls.pop(response.id, None) if isinstance(response.id, int) else None
        if call is None or call.future.done():
            return
        if response.error is not None:
            call.future.set_exception(error_from_map(response.error))
        else:
            call.future.set_result(response.result)

    def _send_call(self, call: Call) -> None:
        call_id = next(self._ids)
        self._calls[call_id] = call
        call.id = call_id
        self.send(Request(call_id, call.method, call.params))

    def _drop(self, call: Call) -> None:
        """Forget a call that was answered or whose caller has left."""
        if self._calls.get(call.id) is call:
            del self._calls[call.id]
            self._waiting = [one for one in self._waiting if not _asks(one, call.id)]

    # ---- ends

    def _ended(self, link: EngineLink) -> None:
        """Handle the closed link. The process is exiting or was killed."""
        self._link = None
        self._was_ready = bool(self.hello)
        self.loaded_models, self.prompt_bounds = [], {}
        self.hello = {}
        self._cleanup = asyncio.get_running_loop().create_task(self._clean_up(link))
        self._cleanup.add_done_callback(self._task_done)

    async def _clean_up(self, link: EngineLink) -> None:
        status = await wait_for_exit(link.process, EXIT_GRACE_S)
        link.release()
        stderr = link.stderr_tail().splitlines()[-STDERR_LINES:]
        self._cleanup = None
        if self._stopping:
            return
        if link.said_bye and status == 0:
            self.last_exit = "no model was loaded"
            self._log("engine ended", reason=self.last_exit)
            self._resend(self._user.resubmit(), retry=True)
            return
        why = self._kill_reason or describe_exit(status)
        self._kill_reason = ""
        self._died(f"{why}{': ' + stderr[-1][:300] if stderr else ''}", stderr)

    def _died(self, why: str, stderr: list[str] | None = None) -> None:
        self._crashes.append(time.monotonic())
        self.restarts += 1
        self.last_exit = why
        self._log("engine died", reason=why, stderr=stderr or [], level="error")
        self._resend(self._user.engine_died(why, self._was_ready), retry=False)

    def _resend(self, messages: list[Message], *, retry: bool) -> None:
        """Send unanswered requests and calls to the next engine, which is started if needed."""
        calls, self._calls = list(self._calls.values()), {}
        # `messages` includes the requests that had not been sent yet.
        self._waiting = list(messages)
        for call in calls:
            if call.future.done():
                continue  # the caller has left, or its deadline has passed
            call.tries += 0 if retry else 1
            if call.tries <= CALL_RETRIES:
                self._send_call(call)
            else:
                call.future.set_exception(EngineDied(f"The engine died: {self.last_exit}."))
        if self._waiting:
            self._ensure()

    # ---- watching

    def _schedule_check(self) -> None:
        loop = asyncio.get_running_loop()
        period_s = min(CHECK_PERIOD_S, self._progress_timeout_s / 4)
        self._check_timer = loop.call_later(period_s, self._check)

    def _check(self) -> None:
        """Kill an engine that has work and is stuck."""
        self._check_timer = None
        link, watchdog = self._link, self._watchdog
        if self._stopping or link is None or not (self._user.busy or self._calls):
            return
        times = process_times(link.pid) if watchdog.silent_s >= READ_TIMES_AFTER_S else None
        if why := watchdog.check(time.monotonic(), times):
            reason = why if self.hello else f"not ready for {watchdog.silent_s:.0f} s"
            self._kill_reason = f"{reason}, so it was killed"
            link.kill()
            return
        if self.hello and watchdog.wants_ping():
            watchdog.pinged()
            link.send(Request(PING_ID, "ping", {}))
        self._schedule_check()


def _is_submit(message: Message, request_id: int) -> bool:
    return (
        isinstance(message, Notification)
        and message.method == "submit"
        and message.params["rid"] == request_id
    )


def _asks(message: Message, call_id: int) -> bool:
    return isinstance(message, Request) and message.id == call_id
