"""The front process: construct the parts, run, shut down."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlxd.daemon.config import Config
from mlxd.daemon.front import handover, upkeep
from mlxd.daemon.front.awake import awake_for
from mlxd.daemon.front.configuration import Configuration
from mlxd.daemon.front.duties import Duties, preload
from mlxd.daemon.front.engine.process import engine_command
from mlxd.daemon.front.engine.supervisor import Supervisor
from mlxd.daemon.front.finder import Finder
from mlxd.daemon.front.handlers import dispatch
from mlxd.daemon.front.hub import HubWorkers
from mlxd.daemon.front.lifecycle import Lifecycle
from mlxd.daemon.front.log import open_log, reopen, writer
from mlxd.daemon.front.metrics import Metrics
from mlxd.daemon.front.recorder import Recorder
from mlxd.daemon.front.requests import Requests
from mlxd.daemon.front.server.accepting import Accepting
from mlxd.daemon.front.server.admission import Admission, Connections
from mlxd.daemon.front.server.listener import Listener, open_listener
from mlxd.daemon.front.services import Services
from mlxd.daemon.stderr import disable_core_dumps, error_summary, hide_error_messages
from mlxd.daemon.version import version
from mlxd.protocol.paths import Paths

FILE_THREADS = 3
"""Threads for looking up models, reading folders and writing settings. Pool threads never exit, and
asyncio's own pool would start up to 32."""


def serve(
    config: Config,
    paths: Paths,
    *,
    listen_sockets: list[socket.socket] | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Run the daemon until it is told to stop. Return its exit code.

    Raises:
        AlreadyRunning, PermissionDenied: the daemon cannot use the socket.
    """
    disable_core_dumps()
    opened = handover.take(os.environ, paths.socket) or open_listener(paths, listen_sockets)
    front = Front(config, paths, opened)
    if not config.log_text:
        hide_error_messages()
    try:
        asyncio.run(front.run(on_ready))
        if front.services.lifecycle.upgrading:
            handover.replace_process(front.accepting.listener)
    finally:
        front.accepting.listener.close()
    return 0


class Front:
    """The daemon without its engine. Handlers receive only its `services`."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        opened: Listener,
        sleep: upkeep.SleepWatch | None = None,
    ) -> None:
        # First, so that an upgrade during the start is detected.
        upgrades = upkeep.UpgradeWatch()
        self._logger = open_log(paths.log_file, config.log_level)
        log = writer(self._logger)
        self.services = _services(config, paths, log)
        self.accepting = Accepting(opened, paths, log)
        self._admission = Admission(
            self.services.connections,
            config,
            adopted=self.accepting.adopted,
            handle=functools.partial(dispatch.handle, self.services),
            log=log,
        )
        self._duties = Duties(
            self.services, self.accepting, self._admission, sleep or upkeep.SleepWatch(), upgrades
        )

    async def run(self, on_ready: Callable[[], None] | None) -> None:
        """Accept connections until asked to stop, then let running requests finish."""
        services, lifecycle = self.services, self.services.lifecycle
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_started_pool())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lifecycle.begin_shutdown, None)
        loop.add_signal_handler(signal.SIGHUP, reopen, self._logger)
        loop.set_exception_handler(self._unexpected)
        services.connections.fit()
        # Open it before the first caller, who then need not wait for the disk.
        await services.models.warm(services.catalog)
        await self.accepting.start(self._admission.connection)
        services.log("ready", pid=os.getpid(), version=version(), socket=str(services.paths.socket))
        if on_ready is not None:
            on_ready()
        tasks = [loop.create_task(preload(services)), loop.create_task(self._duties.run())]
        for task in tasks:
            task.add_done_callback(self._task_done)
        await lifecycle.stop.wait()
        self.accepting.stop(keep_sockets=lifecycle.upgrading)
        for task in tasks:
            task.cancel()
        await self._shut_down()

    async def _shut_down(self) -> None:
        services = self.services
        services.log("stopping", requests=len(services.requests))
        services.requests.draining = True
        await services.lifecycle.drained(services.requests.idle)
        services.requests.refuse_all()
        await asyncio.gather(
            services.connections.close(), services.supervisor.stop(), services.recorder.close()
        )
        # Here, since an upgrade keeps the process that caffeinate waits for.
        services.awake.release()
        services.log("stopped")

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.services.log("task failed", level="error", error=error_summary(exc))

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log a failure outside any request, such as an accept without free descriptors."""
        exc = context.get("exception")
        # Only up to the call, because its arguments may contain a user's prompt.
        message = context.get("message", "").partition("(")[0]
        error = error_summary(exc) if exc is not None else ""
        self.services.log("unexpected", level="error", message=message, error=error)


def _services(config: Config, paths: Paths, log: Callable[..., None]) -> Services:
    metrics = Metrics()
    recorder = Recorder(paths.conversations_db, log)
    requests = Requests(
        make_supervisor=functools.partial(
            Supervisor,
            engine_command(_engine_options(config, paths)),
            paths.log_dir / "engine.err",
            progress_timeout_s=config.engine_progress_timeout_s,
            log=log,
        ),
        max_queue=config.max_queue,
        metrics=metrics,
        recorder=recorder,
        log=log,
        version=version(),
        log_text=config.log_text,
    )
    return Services(
        configuration=Configuration(config, paths),
        lifecycle=Lifecycle(config.drain_s),
        connections=Connections(config.max_connections),
        models=Finder(),
        requests=requests,
        supervisor=requests.supervisor,
        recorder=recorder,
        hub=HubWorkers(paths.log_dir / "hub.err", log),
        metrics=metrics,
        awake=awake_for(sys.platform, enabled=config.prevent_sleep, log=log),
        log=log,
    )


def _engine_options(config: Config, paths: Paths) -> dict[str, Any]:
    return {
        "memory_budget_bytes": config.memory_budget_bytes,
        "keep_alive_s": config.keep_alive_s,
        "prefix_cache_memory_bytes": config.prefix_cache_memory_bytes,
        "prefix_cache_disk_bytes": config.prefix_cache_disk_bytes,
        "prefix_cache_dir": str(paths.prompts_dir),
        "findings_dir": str(paths.findings_dir),
        "kernels_dir": str(paths.kernels_dir),
        "log_text": config.log_text,
        "residency_refresh_ms": config.residency_refresh_ms,
    }


def _started_pool() -> ThreadPoolExecutor:
    """Return a pool whose threads already run, because the system may refuse to start more
    later."""
    pool = ThreadPoolExecutor(FILE_THREADS, "files")
    all_started = threading.Event()
    with contextlib.suppress(RuntimeError):
        for _ in range(FILE_THREADS):
            pool.submit(all_started.wait)
    all_started.set()
    return pool
