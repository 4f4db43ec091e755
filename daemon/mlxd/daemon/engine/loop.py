"""The engine's loop: schedule, run, apply. One compute thread owns all MLX state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from mlxd.daemon.engine.backend.base import Backend
from mlxd.daemon.engine.backend.shortages import (
    as_error,
    device_failure,
    not_device_failure,
    out_of_gpu_memory,
)
from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.intake import Intake
from mlxd.daemon.engine.kvcache.prefix_cache import PrefixCache
from mlxd.daemon.engine.link import FrontClosed, Inbox, Link
from mlxd.daemon.engine.loads import Loads
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.prefill.manager import TOGETHER_CHUNKS
from mlxd.daemon.engine.receiver import IDLE_POLL_S, Receiver
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.room import MemoryRoom
from mlxd.daemon.engine.rpc import Rpc
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import Arrivals
from mlxd.daemon.engine.scheduling.scheduler import SchedulerOutput
from mlxd.daemon.engine.tokenization.worker import PromptReady, TokenizerReady
from mlxd.daemon.stderr import error_summary, report
from mlxd.protocol.errors import OutOfMemory
from mlxd.protocol.messages import Notification, Request

DEVICE_FAILED = "device failed"

GIVE_BACK_AFTER_S = 30.0
"""Time for which an idle engine keeps freed memory for the next prompt."""


class Engine:
    """The compute thread.

    `run` returns when the front disconnects, no model is loaded or the GPU failed.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        link: Link,
        requests: ActiveRequests,
        models: ModelManager,
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
        self._models = models
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
            models=models,
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
        """Run until the front disconnects, no model is loaded or the GPU fails; returns which."""
        try:
            return self._loop()
        except Exception as exc:
            if not device_failure(exc):
                raise
            self._device_failed(exc)
            return DEVICE_FAILED

    def _loop(self) -> str:
        while not self._stopping:
            output = self._schedule()
            self._announce(output)
            self._apply()  # cancelled and refused requests end before the next step, not after it
            self._run(output)
            self._apply()
            # One at a time while sequences decode, because all at once would delay their next
            # tokens.
            if self._prefixes.store_pending(1 if self._runner.sequences else None):
                self._room.trim(self._models.weights_bytes())
            if self._is_empty():
                return "empty"
        return "front gone"

    def _device_failed(self, exc: Exception) -> None:
        """Report the failure. The front starts another engine: memory of this one is invalid.

        If the GPU ran out of memory, requests that are being computed end with `out_of_memory`,
        because they might make the next engine fail as well. The front retries or ends the others.
        """
        report("The GPU failed:", error_summary(exc), str(exc)[:300])
        if out_of_gpu_memory(exc):
            error = OutOfMemory(f"The GPU ran out of memory: {str(exc)[:200]}")
            for request in [one for one in self._requests.by_id.values() if one.begun]:
                self._requests.fail(request, error)
        self._apply()

    def _schedule(self) -> SchedulerOutput:
        """Handle received messages, wait if there is no work, and choose what to compute."""
        self._receiver.take()
        self._receiver.wait_for_prompts()
        self._housekeeping()
        output = self._scheduler.schedule()
        while output.idle and not (self._loads.can_advance or self._has_news() or self._stopping):
            self._receiver.wait()
            self._housekeeping()
            if self._is_empty() or self._models.blocked:
                break
            self._receiver.wait_for_prompts()
            output = self._scheduler.schedule()
        return output

    def _run(self, output: SchedulerOutput) -> None:
        if output.queue is not None:
            started_s = time.monotonic()
            self._give_back_s = started_s + GIVE_BACK_AFTER_S
            loaded = self._models.loaded[output.queue.model]
            try:
                self._runner.run(output, output.queue, loaded, self._requests.by_id)
            except Exception as exc:  # a failure ends the requests of this queue only
                not_device_failure(exc)
                self._intake.queue_failed(output.queue, exc)
            self._room.trim(self._models.weights_bytes())
            loaded.pacer.observe_iteration(time.monotonic() - started_s)
        self._loads.advance()

    def _apply(self) -> None:
        """Send the events of all requests, in one message."""
        if events := self._requests.take_events():
            self._link.notify("step", {"events": events})
        if self._room.changed:
            self._room.changed = False
            models = {
                "models": self._models.records(),
                "evicted": self._models.take_evictions(),
                "prompt_bounds": self._models.prompt_bounds(),
            }
            self._link.notify("resident", models)

    def _has_news(self) -> bool:
        return self._requests.has_events or self._room.changed

    def _announce(self, output: SchedulerOutput) -> None:
        """Tell the front what is computed next, and which requests it starts."""
        if output.queue is None:
            return
        loaded = self._models.loaded[output.queue.model]
        for request_id in (*output.admit, *output.prefill):
            request = self._requests.by_id[request_id]
            if not request.begun:
                request.begun = True
                self._requests.emit(request, "begun", {})
        entries = self._scheduler.entries
        prompt_tokens = sum(entries[request_id].prompt_left for request_id in output.prefill)
        most = loaded.pacer.chunk_tokens(decoding=False) * TOGETHER_CHUNKS
        self._announcer.compute(loaded.pacer.expected_s(min(prompt_tokens, most), loaded.bytes))

    def _handle(self, message: Any) -> None:
        if isinstance(message, FrontClosed):
            self._stopping = True
        elif isinstance(message, Notification):
            # Ignore unknown notifications, as the public socket does.
            if notified := self._notifications.get(message.method):
                notified(message.params)
        elif isinstance(message, Request):
            try:
                self._calls[message.method](message)
            except Exception as exc:
                self._link.refuse(message.id, as_error(exc))
                not_device_failure(exc)
        elif isinstance(message, PromptReady):
            self._intake.prepared(message)
        elif isinstance(message, TokenizerReady):
            self._loads.tokenizer_ready(message)

    def _housekeeping(self) -> None:
        """Unload models that expired or for which memory is short, even during work."""
        now_s = time.monotonic()
        if now_s >= self._housekeeping_s:
            self._models.expire()
            self._backend.housekeeping()
            if now_s >= self._give_back_s:
                self._backend.idle()
                self._give_back_s = math.inf
            self._housekeeping_s = now_s + min(IDLE_POLL_S, self._models.next_expiry_s())

    def _is_empty(self) -> bool:
        """Whether the process holds no state, so that it may exit to return all memory."""
        models, requests = self._models, self._requests
        if models.loaded or models.loading or requests.by_id or requests.has_events:
            return False
        waited = time.monotonic() - self._room.last_unload_s >= self._empty_exit_s
        return self._receiver.empty and (models.loaded_total > 0 or waited)
