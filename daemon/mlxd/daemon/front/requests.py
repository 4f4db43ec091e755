"""The life of a completion request: admitted, submitted, streamed, answered exactly once."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mlxd.daemon.front.completion import Completion
from mlxd.daemon.front.engine.supervisor import EngineUser, Supervisor
from mlxd.daemon.front.log import Log
from mlxd.daemon.front.metrics import Metrics
from mlxd.daemon.front.recorder import Recorder, Recording
from mlxd.daemon.front.replays import Probation, refusal, suspects
from mlxd.daemon.front.server.connection import Connection, RequestInFlight
from mlxd.protocol.errors import (
    ERRORS,
    MlxdError,
    Overloaded,
    ShuttingDown,
    error_from_map,
)
from mlxd.protocol.messages import Message, MessageId, Notification

if TYPE_CHECKING:
    from mlxd.daemon.conversations.store import Turn

ENDING_GRACE_S = 2.0
"""Time for the engine to confirm an early end, with the usage so far."""
ENDINGS: dict[str, str] = {
    "cancelled": "The request was cancelled.",
    "superseded": "A newer request replaced this one.",
    "deadline_exceeded": "The request exceeded its deadline.",
}
OUTPUT = frozenset({"delta", "tool_call"})


def ended(code: str) -> MlxdError:
    """Return the error of a request that ended with `code`, if the engine has not reported the
    usage."""
    return ERRORS[code](ENDINGS[code], data={"usage": None})


def _keep(recording: Recording, delta: dict[str, Any]) -> None:
    """Keep the text of an answer that may remain incomplete."""
    if delta["channel"] == "answer" and delta["index"] == 0:
        recording.parts.append(delta["text"])


class Requests:
    """All completions in flight. `make_supervisor(self)` returns who runs the engine for them."""

    def __init__(
        self,
        *,
        max_queue: int,
        make_supervisor: Callable[[EngineUser], Supervisor],
        metrics: Metrics,
        recorder: Recorder,
        log: Log,
        version: str,
        log_text: bool = False,
    ) -> None:
        self._max_queue = max_queue
        self._metrics = metrics
        self._recorder = recorder
        self._log = log
        self._version = version
        self._log_text = log_text
        self._ids = itertools.count(1)
        self._active: dict[int, Completion] = {}
        self._by_key: dict[str, Completion] = {}
        self._unconfirmed: set[int] = set()
        self._probation = Probation(lambda one: self.supervisor.send(one.submit_message()))
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.supervisor = make_supervisor(self)

    def __len__(self) -> int:
        return len(self._active)

    @property
    def busy(self) -> bool:
        """Whether the engine has work, or still has to confirm that a request was stopped."""
        return bool(self._active or self._unconfirmed)

    @property
    def running(self) -> int:
        """The number of requests with output."""
        return sum(1 for one in self._active.values() if one.output)

    def submit(
        self,
        request: RequestInFlight,
        method: str,
        params: dict[str, Any],
        model: dict[str, Any],
        turn: Turn | None = None,
    ) -> None:
        """Admit a request and submit it to the engine. `turn` is stored with its answer.

        Raises:
            ShuttingDown, Overloaded: the request is not admitted.
        """
        if self.draining:
            raise ShuttingDown("The daemon is stopping.")
        if len(self._active) >= self._max_queue:
            raise Overloaded(
                f"{len(self._active)} requests are waiting or running.",
                data={"retry_after_s": self._retry_after_s(), "queue": len(self._active)},
            )
        recording = None if turn is None else self._recorder.begin(turn)
        one = Completion(next(self._ids), request, method, params, model, recording)
        self._active[one.rid] = one
        self.idle.clear()
        request.begin(functools.partial(self._cancel, one))
        if (key := params["supersede"]) is not None:
            self._supersede(key, one)
        if (deadline_s := params["deadline_s"]) is not None:
            loop = asyncio.get_running_loop()
            one.timer = loop.call_later(deadline_s, self._end_by, one, "deadline_exceeded")
        if params["stream"]:
            request.conn.event(self._queued(one))
        # Submit first. Writing to the caller wakes it, and it may then use the CPU.
        self.supervisor.send(one.submit_message())
        request.conn.flush()

    def of_model(self, path: str, adapter: str | None) -> int:
        """Return the number of unfinished requests for a model."""
        return sum(
            one.model["path"] == path and one.model.get("adapter") == adapter
            for one in self._active.values()
        )

    def _queued(self, one: Completion) -> dict[str, Any]:
        event = {"id": one.request.event_id, "type": "queued", "position": len(self._active) - 1}
        if one.recording is not None:
            # Sent before the answer, which may remain incomplete.
            event["conversation"] = one.recording.turn.conversation
        return event

    def _cancel(self, one: Completion) -> bool:
        self._end_by(one, "cancelled")
        return True

    def step(self, events: list[Any]) -> None:
        """Handle the events of an engine step. Writes once per connection."""
        written: set[Connection] = set()
        for rid, kind, payload in events:
            one = self._active.get(rid)
            if one is None:
                self._unconfirmed.discard(rid)
                continue
            if kind == "end":
                self._finish(one, payload)
            elif kind == "stopping":
                self._end_early(one, error_from_map(payload))
            elif kind == "error":
                self._fail(one, error_from_map(payload))
            elif kind == "begun":
                one.begun = True
            else:
                if kind in OUTPUT and not one.output:
                    one.output = True
                    self._probation.passed(one)
                if one.recording is not None and kind == "delta":
                    _keep(one.recording, payload)
                conn = one.request.conn
                if one.params["stream"] and conn.open:
                    conn.event(_event(one.request.event_id, kind, payload))
                    written.add(conn)
        for conn in written:
            conn.flush()

    def engine_died(self, why: str, ready: bool) -> list[Message]:
        """End requests that had output or seem to be the cause. Return the others for resubmission.

        `ready` states whether the engine had sent `hello`.
        """
        self._unconfirmed.clear()
        held = self._probation.clear()
        sent = [one for one in self._active.values() if one.result is None and one not in held]
        suspected = suspects(sent, ready=ready)
        for one in suspected:
            one.suspect_deaths += 1
        for one in sent:
            one.replays += 1
            one.other_deaths += not suspected
            if one.ending:
                self._fail(one, ended(one.ending))
            elif (error := refusal(one, why, alone=suspected == [one])) is not None:
                self._fail(one, error)
            one.begun = False
        one_by_one = [one for one in (*suspected, *held) if one.rid in self._active]
        others = [one for one in sent if one.rid in self._active and one not in one_by_one]
        first = self._probation.begin(one_by_one)
        return [one.submit_message() for one in ([first] if first else []) + others]

    def resubmit(self) -> list[Message]:
        """Return all submits, for an engine that exited by plan when a request arrived."""
        self._unconfirmed.clear()
        self._probation.clear()
        for one in list(self._active.values()):
            if one.ending and one.result is None:
                self._fail(one, ended(one.ending))
        return [one.submit_message() for one in self._active.values() if one.result is None]

    def refuse_all(self) -> None:
        """End all requests that are still running at the end of the shutdown time."""
        for one in list(self._active.values()):
            if one.result is not None:
                self._answer(one, one.result)
                continue
            self._stop_engine(one)
            self._fail(one, ShuttingDown("The daemon stopped before the answer was complete."))

    def _supersede(self, key: str, one: Completion) -> None:
        older = self._by_key.get(key)
        self._by_key[key] = one
        if older is not None:
            self._end_by(older, "superseded")

    def _end_by(self, one: Completion, code: str) -> None:
        """Tell the engine to stop. Its answer, with the usage so far, ends the request."""
        if one.ending or one.result is not None or one.rid not in self._active:
            return
        if self._probation.drop(one) or self.supervisor.withdraw(one.rid):
            self._fail(one, ended(code))
            return
        one.ending = code
        if one.recording is not None:
            # Now, not when the engine confirms: the next question may arrive before that, and
            # continues from the text so far.
            self._recorder.fail(one.recording, code)
        self._tell_engine(one, code)
        if one.timer is not None:
            one.timer.cancel()
        loop = asyncio.get_running_loop()
        one.timer = loop.call_later(ENDING_GRACE_S, self._end_alone, one)

    def _end_alone(self, one: Completion) -> None:
        """Answer for an engine that is stuck in a long step, or forever."""
        self._end_early(one, ended(one.ending))

    def _end_early(self, one: Completion, error: MlxdError) -> None:
        """Answer before the engine has confirmed that it stopped."""
        if one.result is not None:
            return
        self._unconfirmed.add(one.rid)
        self._fail(one, error)

    def _stop_engine(self, one: Completion) -> None:
        if not (self._probation.drop(one) or self.supervisor.withdraw(one.rid)):
            self._tell_engine(one, "cancelled")

    def _tell_engine(self, one: Completion, code: str) -> None:
        self.supervisor.send(Notification("cancel", {"rid": one.rid, "code": code}))

    def _finish(self, one: Completion, result: dict[str, Any]) -> None:
        one.result = result
        if one.recording is None:
            self._answer(one, result)
        else:
            # The answer states whether it is stored, which another thread decides.
            self._recorder.when_begun(one.recording, lambda: self._answer(one, result))

    def _answer(self, one: Completion, result: dict[str, Any]) -> None:
        if one.rid not in self._active:
            return  # its caller disconnected meanwhile
        self._forget(one)
        self._metrics.outcomes["ok"] += 1
        self._metrics.finished(result)
        if one.recording is not None:
            self._recorder.finish(one.recording, result)
        result["applied"]["version"] = self._version
        timing, usage = result["timing"], result["usage"]
        words = self._words(one, result.get("choices", ()))
        self._log("request", **self._facts(one), outcome="ok", **usage, **timing, **words)
        one.request.respond(result)

    def _fail(self, one: Completion, error: MlxdError) -> None:
        self._forget(one)
        self._metrics.outcomes[error.code] += 1
        if one.recording is not None:
            self._recorder.fail(one.recording, error.code)
        seconds = round(time.monotonic() - one.started_s, 6)
        words = self._words(one)
        self._log("request", **self._facts(one), outcome=error.code, seconds=seconds, **words)
        one.request.respond(error=error)

    def _forget(self, one: Completion) -> None:
        self._active.pop(one.rid, None)
        self._probation.passed(one)
        if not self._active:
            self.idle.set()
        if one.timer is not None:
            one.timer.cancel()
        key = one.params["supersede"]
        if key is not None and self._by_key.get(key) is one:
            del self._by_key[key]

    def _words(self, one: Completion, choices: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
        """Return prompt and answers for the log, if the configuration enables that."""
        if not self._log_text:
            return {}
        names = ("messages", "prompt", "prefix", "suffix")
        asked = {name: one.params[name] for name in names if one.params.get(name) is not None}
        return {**asked, "answers": [choice["text"] for choice in choices]}

    @staticmethod
    def _facts(one: Completion) -> dict[str, Any]:
        return {
            "rid": one.rid,
            "conn": one.request.conn.serial,
            "method": one.method,
            "model": one.model["name"],
            "priority": one.params["priority"],
            "replays": one.replays,
        }

    def _retry_after_s(self) -> float:
        """Estimate it from the durations of earlier requests."""
        duration = self._metrics.duration
        count = sum(duration.counts)
        return round(duration.total / count, 3) if count else 1.0


def _event(event_id: MessageId, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Return an event in the wire format. Its `id` is the request's, and that of a tool call is
    `call_id`."""
    if kind == "tool_call" and "id" in payload:
        payload = {**payload, "call_id": payload["id"]}
    return {**payload, "id": event_id, "type": kind}
