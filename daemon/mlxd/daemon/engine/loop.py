"""The engine's loop: schedule, run, apply. One compute thread owns everything of MLX."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from mlxd.daemon.engine.backend.base import Backend
from mlxd.daemon.engine.backend.shortages import as_error
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import FrontGone, Inbox, Link
from mlxd.daemon.engine.loads import Loads
from mlxd.daemon.engine.models.manager import Residents
from mlxd.daemon.engine.prefill.manager import TOGETHER_CHUNKS
from mlxd.daemon.engine.receiver import IDLE_POLL_S, Receiver
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.rpc import Rpc
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import Turn
from mlxd.daemon.engine.tokenization.worker import PreparedJob, TokenizerReady
from mlxd.protocol.messages import Notification, Request

GIVE_BACK_AFTER_S = 30.0
"""How long an idle engine keeps freed memory for the next prompt."""


class Engine:
    """`run` returns when the front has gone or nothing is left."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        link: Link,
        requests: ActiveRequests,
        residents: Residents,
        runner: Runner,
        prefixes: PrefixCache,
        room: MemoryRoom,
        intake: Intake,
        loads: Loads,
        rpc: Rpc,
        announcer: Announcer,
        arrivals: Arrivals,
        backend: Backend,
        empty_exit_s: float,
    ) -> None:
        self._link = link
        self._requests = requests
        self._residents = residents
        self._runner = runner
        self._scheduler = runner.scheduler
        self._prefixes = prefixes
        self._room = room
        self._intake = intake
        self._loads = loads
        self._announcer = announcer
        self._empty_exit_s = empty_exit_s
        self._backend = backend
        self._receiver = Receiver(
            inbox=inbox,
            handle=self._handle,
            announcer=announcer,
            requests=requests,
            residents=residents,
            runner=runner,
            arrivals=arrivals,
        )
        self._notifications: dict[str, Callable[[dict[str, Any]], None]] = {
            "submit": intake.submit,
            "cancel": intake.cancel,
        }
        self._calls: dict[str, Callable[[Request], None]] = {
            "load": loads.load,
            "unload": loads.unload,
            **rpc.calls,
        }
        self._stopping = False
        self._housekeeping_s = 0.0
        self._give_back_s = math.inf

    def run(self) -> str:
        """Work until the front has gone ("front gone") or nothing is loaded ("empty")."""
        while not self._stopping:
            turn = self._schedule()
            self._announce(turn)
            self._apply()  # who was cancelled or refused is told before the next step, not after
            self._run(turn)
            self._apply()
            # While others decode, one at a time: all at once would be a pause in their text.
            if self._prefixes.store_aside(1 if self._runner.rows else None):
                self._room.trim(self._residents.weights_bytes())
            if self._is_empty():
                return "empty"
        return "front gone"

    def _schedule(self) -> Turn:
        """Take in what has come, waiting if there is nothing to do; then choose what to compute."""
        self._receiver.take()
        self._receiver.wait_for_prompts()
        self._housekeeping()
        turn = self._scheduler.plan()
        while turn.idle and not (self._loads.can_advance or self._has_news() or self._stopping):
            self._receiver.wait()
            self._housekeeping()
            if self._is_empty() or self._residents.blocked:
                break
            self._receiver.wait_for_prompts()
            turn = self._scheduler.plan()
        return turn

    def _run(self, turn: Turn) -> None:
        if turn.lane is not None:
            started_s = time.monotonic()
            self._give_back_s = started_s + GIVE_BACK_AFTER_S
            host = self._residents.hosts[turn.lane.model]
            try:
                self._runner.run(turn, turn.lane, host, self._requests.jobs)
            except Exception as exc:  # the failure of one queue must not end the others
                self._intake.queue_failed(turn.lane, exc)
            self._room.trim(self._residents.weights_bytes())
            host.pacer.observe_turn(time.monotonic() - started_s)
        self._loads.advance()

    def _apply(self) -> None:
        """Send the events of all requests, in one message."""
        if events := self._requests.take_events():
            self._link.notify("step", {"events": events})
        if self._room.changed:
            self._room.changed = False
            resident = {
                "models": self._residents.records(),
                "evicted": self._residents.take_evictions(),
                "prompt_bounds": self._residents.prompt_bounds(),
            }
            self._link.notify("resident", resident)

    def _has_news(self) -> bool:
        return self._requests.has_events or self._room.changed

    def _announce(self, turn: Turn) -> None:
        """Tell the front what is computed next, and whose prompts are begun."""
        if turn.lane is None:
            return
        host = self._residents.hosts[turn.lane.model]
        for rid in (*turn.admit, *turn.prefill):
            job = self._requests.jobs[rid]
            if not job.begun:
                job.begun = True
                self._requests.emit(job, "begun", {})
        asked = sum(self._scheduler.entries[rid].prompt_left for rid in turn.prefill)
        chunk = host.pacer.chunk_tokens(decoding=False) * TOGETHER_CHUNKS
        self._announcer.compute(host.pacer.expected_s(min(asked, chunk), host.bytes))

    def _handle(self, message: Any) -> None:
        if isinstance(message, FrontGone):
            self._stopping = True
        elif isinstance(message, Notification):
            # Unknown ones are ignored, as on the public socket.
            if notified := self._notifications.get(message.method):
                notified(message.params)
        elif isinstance(message, Request):
            try:
                self._calls[message.method](message)
            except Exception as exc:
                self._link.refuse(message.id, as_error(exc))
        elif isinstance(message, PreparedJob):
            self._intake.prepared(message)
        elif isinstance(message, TokenizerReady):
            self._loads.tokenizer_ready(message)

    def _housekeeping(self) -> None:
        """Unload models whose time is up or for which memory is short, also while there is work."""
        now_s = time.monotonic()
        if now_s >= self._housekeeping_s:
            self._residents.expire()
            self._backend.housekeeping()
            if now_s >= self._give_back_s:
                self._backend.idle()
                self._give_back_s = math.inf
            self._housekeeping_s = now_s + min(IDLE_POLL_S, self._residents.next_expiry_s())

    def _is_empty(self) -> bool:
        """Whether the process holds nothing, so that its end gives all memory back."""
        residents, requests = self._residents, self._requests
        if residents.hosts or residents.loading or requests.jobs or requests.has_events:
            return False
        waited = time.monotonic() - self._room.model_gone_s >= self._empty_exit_s
        return self._receiver.empty and (residents.loaded_total > 0 or waited)
