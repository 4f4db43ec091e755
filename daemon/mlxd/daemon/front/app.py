"""The front's process: everything put together, from the first signal handler to the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlxd.daemon.config import Config
from mlxd.daemon.front import handover, upkeep
from mlxd.daemon.front.engine.process import engine_command
from mlxd.daemon.front.engine.supervisor import Supervisor
from mlxd.daemon.front.finder import Finder
from mlxd.daemon.front.handlers import dispatch
from mlxd.daemon.front.hub import HubWorkers
from mlxd.daemon.front.log import open_log, reopen, writer
from mlxd.daemon.front.metrics import Metrics
from mlxd.daemon.front.recorder import Recorder
from mlxd.daemon.front.requests import Requests
from mlxd.daemon.front.server import listener
from mlxd.daemon.front.server.connection import REFUSED_AT_ONCE, Connection, connections_that_fit
from mlxd.daemon.front.server.listener import Listener, open_listener
from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.version import version
from mlxd.daemon.words import keep_quiet, leave_no_core, outline
from mlxd.protocol import PROTOCOL_VERSION
from mlxd.protocol.codec import Limits
from mlxd.protocol.errors import MlxdError, Overloaded, PermissionDenied
from mlxd.protocol.paths import Paths

SWEEP_S = 0.25
"""How often half-closed and half-sent connections are looked at, while there are any."""

HALF_SENT_MESSAGES = 8
"""Messages of the largest size that may be half-sent at once, by all callers together."""

CANARY_TIMEOUT_S = 30.0
"""One token, from weights that may have to come back from swap."""

FILE_THREADS = 3
"""Threads that look models up, read folders and write settings. Each is there for good once it was
needed, and the memory it has touched too: asyncio's own pool would have up to 32."""

PARTING_S = 2.0
"""How long callers may take to read their last answers when the daemon stops."""


def serve(
    config: Config,
    paths: Paths,
    *,
    listen_sockets: list[socket.socket] | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Run the daemon until it is told to stop; returns its exit code.

    Raises:
        AlreadyRunning, PermissionDenied: the socket cannot be ours.
    """
    leave_no_core()
    opened = handover.take(os.environ, paths.socket) or open_listener(paths, listen_sockets)
    front = Front(config, paths, opened)
    if not config.log_text:
        keep_quiet()
    try:
        asyncio.run(front.run(on_ready))
        if front.upgrading:
            handover.replace_process(front.listener)
    finally:
        front.listener.close()
    return 0


class Front:
    """The daemon's parts and what they share. Handlers get this."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        opened: Listener,
        sleep: upkeep.SleepWatch | None = None,
    ) -> None:
        self.config = config
        self.paths = paths
        self.catalog = Catalog(config, own_dir=paths.models_dir)
        self.models = Finder()
        self.metrics = Metrics()
        self.connections: set[Connection] = set()
        self.max_connections = config.max_connections
        self._refused: set[Connection] = set()
        self.listener = opened
        self._servers: list[asyncio.AbstractServer] = []
        self._socket_problem = ""
        self.upgrading = False
        self._sleep = sleep or upkeep.SleepWatch()
        self._upgrades = upkeep.UpgradeWatch()  # before anybody is told that we are ready
        self._checking = False
        self._logger = open_log(paths.log_file, config.log_level)
        self.log = writer(self._logger)
        self.recorder = Recorder(paths.conversations_db, self.log)
        self.hub = HubWorkers(paths.log_dir / "hub.err", self.log)
        self._serials = itertools.count(1)
        self._started_s = time.monotonic()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._all_lost = asyncio.Event()
        self._drain_s = config.drain_s
        self._limits = Limits(config.max_message_bytes, config.max_depth)
        self._sweeping: asyncio.TimerHandle | None = None
        self.supervisor = Supervisor(
            engine_command(self._engine_options()),
            paths.log_dir / "engine.err",
            progress_timeout_s=config.engine_progress_timeout_s,
            on_step=self._step,
            on_death=lambda why, ready: self.requests.engine_died(why, ready),
            on_bye=lambda: self.requests.resubmit(),
            busy=lambda: self.requests.busy,
            log=self.log,
        )
        self.requests = Requests(
            max_queue=config.max_queue,
            send=self.supervisor.send,
            withdraw=self.supervisor.withdraw,
            metrics=self.metrics,
            recorder=self.recorder,
            log=self.log,
            version=version(),
            log_text=config.log_text,
        )

    async def run(self, on_ready: Callable[[], None] | None) -> None:
        """Accept connections until asked to stop; then let running requests finish."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(FILE_THREADS, "files"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.begin_shutdown, None)
        loop.add_signal_handler(signal.SIGHUP, reopen, self._logger)
        loop.set_exception_handler(self._unexpected)
        self.max_connections = connections_that_fit(self.config.max_connections)
        # Known from the start, it costs the first caller no look at the disk.
        await self.models.warm(self.catalog)
        await self._listen()
        self.log("ready", pid=os.getpid(), version=version(), socket=str(self.paths.socket))
        if on_ready is not None:
            on_ready()
        tasks = [loop.create_task(self._preload()), loop.create_task(self._look_after())]
        for task in tasks:
            task.add_done_callback(self._task_done)
        await self._stop.wait()
        for server in self._servers:
            server.close()
        if not self.upgrading:  # who connects now is to be refused, rather than to wait in vain
            for sock in self.listener.sockets:
                sock.close()
        for task in tasks:
            task.cancel()
        await self._drain()

    async def _listen(self) -> None:
        extra: dict[str, Any] = {}
        if sys.version_info >= (3, 13):
            extra["cleanup_socket"] = False
        loop = asyncio.get_running_loop()
        for sock in self.listener.sockets:
            # A copy, since asyncio closes what it is given, and a successor may need the socket.
            server = await loop.create_unix_server(
                self._connection, sock=sock.dup(), backlog=listener.ACCEPT_BURST, **extra
            )
            sock.listen(listener.BACKLOG)  # asyncio has set the kernel's queue to the burst
            self._servers.append(server)

    async def _keep_socket(self) -> None:
        """See that callers find the socket; make it again, or give way to another daemon."""
        before, problem = self.listener, ""
        try:
            self.listener = listener.restored(before, self.paths)
        except (listener.AlreadyRunning, listener.SocketLost) as error:
            self.log("unreachable", level="error", message=error.message)
            self.keep_models()
            self.begin_shutdown(None)
            return
        except (OSError, PermissionDenied) as exc:
            problem = str(exc)
        if self.listener is not before:
            await self._replace_listener(before)
        if problem and problem != self._socket_problem:
            self.log("socket gone", level="error", message=problem)
        self._socket_problem = problem

    async def _replace_listener(self, before: Listener) -> None:
        self.log("socket made again", level="warning", socket=str(self.paths.socket))
        if before.sockets != self.listener.sockets:
            for server in self._servers:
                server.close()
            for sock in before.sockets:
                sock.close()
            self._servers.clear()
            await self._listen()
        if before.lock_descriptor != self.listener.lock_descriptor:
            os.close(before.lock_descriptor)

    # ---- connections

    def _connection(self) -> Connection:
        return Connection(
            next(self._serials),
            self._limits,
            lambda conn, message: dispatch.handle(self, conn, message),
            self._opened,
            self._lost,
            self._sweep_later,
        )

    def _opened(self, conn: Connection) -> bool:
        uid = listener.peer_uid(conn.socket)
        error: MlxdError | None = None
        if not listener.peer_allowed(uid, adopted=self.listener.adopted):
            error = PermissionDenied("This daemon serves its own user only.")
        elif len(self.connections) >= self.max_connections:
            error = self._full()
        if error is not None:
            self.log("refused", level="warning", code=error.code, uid=uid)
            if len(self._refused) >= REFUSED_AT_ONCE:
                conn.abort()
            self._refused.add(conn)
            conn.refuse(error)
            return False
        self.connections.add(conn)
        return True

    def _full(self) -> Overloaded:
        limit = self.max_connections
        hint = ""
        if limit < self.config.max_connections:
            hint = "The system allows few open files: mlxd doctor says how to get more."
        data = {"max_connections": limit}
        return Overloaded(f"{limit} connections are open.", hint=hint, data=data)

    def _lost(self, conn: Connection) -> None:
        self.connections.discard(conn)
        self._refused.discard(conn)
        if not self.connections:
            self._all_lost.set()
        self.requests.connection_lost(conn)
        for task in list(conn.in_flight.values()):
            if isinstance(task, asyncio.Task):
                task.cancel()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Notice callers that have gone, and messages that never get complete."""
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        watched = [c for c in self.connections if c.half_closed or c.partial_since is not None]
        for conn in watched:
            began = conn.partial_since
            late = began is not None and now - began > self.config.message_timeout_s
            if late or (conn.half_closed and conn.has_hung_up()):
                conn.abort()
        self._bound_half_sent([conn for conn in watched if conn.open])
        if watched:
            self._sweep_later()

    def _bound_half_sent(self, watched: list[Connection]) -> None:
        """Hang up on the largest half-sent messages until what all hold together is bearable."""
        room = HALF_SENT_MESSAGES * self.config.max_message_bytes
        held = sum(conn.half_sent_bytes for conn in watched)
        for conn in sorted(watched, key=lambda conn: -conn.half_sent_bytes):
            if held <= room:
                return
            held -= conn.half_sent_bytes
            self.log("too much half sent", level="warning", conn=conn.serial)
            conn.abort()

    # ---- the engine

    def _step(self, events: list[Any]) -> None:
        self.requests.step(events)

    def _engine_options(self) -> dict[str, Any]:
        config = self.config
        return {
            "memory_budget_bytes": config.memory_budget_bytes,
            "keep_alive_s": config.keep_alive_s,
            "prefix_cache_memory_bytes": config.prefix_cache_memory_bytes,
            "prefix_cache_disk_bytes": config.prefix_cache_disk_bytes,
            "prefix_cache_dir": str(self.paths.prompts_dir),
            "kernels_dir": str(self.paths.kernels_dir),
            "log_text": config.log_text,
        }

    async def _preload(self) -> None:
        """Warm the default model, and what a predecessor had in memory when it was restarted."""
        wanted = handover.noted_models(self.paths.resume_file)
        if self.config.preload and not wanted:
            wanted = [{"model": None, "keep_alive_s": None, "pin": None}]
        for one in wanted:
            try:
                ref = await self.models.find(self.catalog, one)
                params = {"model": ref.to_map(), "keep_alive_s": one["keep_alive_s"],
                          "pin": one["pin"]}  # fmt: skip
                result = await self.supervisor.call("load", params)
                self.log("preloaded", model=result["model"], load_s=result["load_s"])
            except MlxdError as error:
                self.log("preload failed", level="warning", code=error.code, message=error.message)
            except Exception as exc:  # the other models are wanted all the same
                self.log("preload failed", level="error", error=outline(exc))

    # ---- upkeep

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.log("task failed", level="error", error=outline(exc))

    async def _look_after(self) -> None:
        await upkeep.watch(
            upgrade_check_s=self.config.upgrade_check_s,
            idle=lambda: not (len(self.requests) or self.hub.running or self._stop.is_set()),
            upgrade=self._upgrade,
            refused=lambda: self.log("upgrade does not start", level="warning"),
            woke=self._woke,
            failed=lambda exc: self.log("upkeep failed", level="error", error=outline(exc)),
            sleep=self._sleep,
            upgrades=self._upgrades,
            also=self._keep_files,
        )

    async def _keep_files(self) -> None:
        self.recorder.look()
        await self._keep_socket()

    def _upgrade(self) -> None:
        """Make room for the program that lies on the disk now."""
        self.log("upgrading", version=version())
        self.upgrading = True
        self.keep_models()
        self.begin_shutdown(0.0)

    def keep_models(self) -> None:
        """Let the next daemon load what is in memory now."""
        try:
            handover.note_models(self.paths.resume_file, self.supervisor.residents)
        except OSError as exc:
            self.log("models not noted", level="warning", error=type(exc).__name__)

    async def _woke(self) -> None:
        """After a sleep the engine must decode a token before it is called ready again."""
        if not self.supervisor.running:
            return
        self._checking = True
        try:
            await asyncio.wait_for(self.supervisor.call("canary", {}), CANARY_TIMEOUT_S)
            self.log("woke", canary="ok")
        except (TimeoutError, MlxdError) as exc:
            self.log("woke", level="warning", canary=type(exc).__name__)
            self.supervisor.replace("no token after the machine woke up")
        finally:
            self._checking = False

    def reconfigure(self, config: Config) -> None:
        """Take a configuration in which names of models have changed."""
        self.config = config
        self.catalog = Catalog(config, own_dir=self.paths.models_dir)

    # ---- state and end

    def uptime_s(self) -> float:
        return time.monotonic() - self._started_s

    def state(self) -> str:
        if self._stop.is_set():
            return "draining"
        return "checking" if self._checking else "ready"

    def status(self) -> dict[str, Any]:
        """Answer the method `status`."""
        running = self.requests.running
        return {
            "version": version(),
            "protocol": PROTOCOL_VERSION,
            "pid": os.getpid(),
            "uptime_s": round(self.uptime_s(), 3),
            "state": self.state(),
            "socket": str(self.paths.socket),
            "default_model": self.config.default_model,
            "engine": self.supervisor.status(),
            "models": self.supervisor.residents,
            "evicted": [*self.supervisor.evicted],
            "requests": {"running": running, "queued": len(self.requests) - running},
            "connections": len(self.connections),
            "conversations": self.recorder.status(),
        }

    def begin_shutdown(self, drain_s: float | None) -> None:
        """Stop after what is running, at most `drain_s` later.

        A second signal, or a second call with less patience, does not wait any longer.
        """
        if self._stop.is_set():
            if drain_s is None or drain_s < self._drain_s:
                self._hurry.set()
        elif drain_s is not None:
            self._drain_s = drain_s
        self._stop.set()

    async def _drain(self) -> None:
        self.log("stopping", requests=len(self.requests))
        self.requests.draining = True
        finished = asyncio.ensure_future(self.requests.idle.wait())
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait(
            {finished, hurried}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED
        )
        finished.cancel()
        hurried.cancel()
        self.requests.refuse_all()
        await asyncio.gather(self._part(), self.supervisor.stop(), self.recorder.close())
        self.log("stopped")

    async def _part(self) -> None:
        """Close every connection once its caller has read the last answer."""
        if not self.connections:
            return
        self._all_lost.clear()
        for conn in list(self.connections):
            conn.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_lost.wait(), PARTING_S)

    def _unexpected(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something failed outside of any request, such as accept for want of descriptors."""
        exc = context.get("exception")
        # Up to the call: its arguments may be somebody's prompt.
        message = context.get("message", "").partition("(")[0]
        error = outline(exc) if exc is not None else ""
        self.log("unexpected", level="error", message=message, error=error)
