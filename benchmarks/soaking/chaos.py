"""The faults that are caused while the daemon serves callers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import psutil

from mlxd.protocol.paths import Paths
from soaking import machine
from soaking.callers import World
from soaking.ledger import Faults
from support.daemon_process import Daemon
from support.places import MLXD

GONE_S = 90.0
COMMAND_S = 300.0
QUIET_S = 700.0
HUB_WORKER_S = 40.0
HUB_WORKER_AGE_S = (0.0, 3.0)
JUST_BEFORE_S = 2.0
"""The end of an answer may be missing on disk if a kill follows within this time."""


class Failed(Exception):
    """The daemon did not recover from a fault as required."""


class Chaos:
    """Actions on a daemon that `mlxd start` started. Each is recorded as a fault first."""

    def __init__(
        self, daemon: Daemon, paths: Paths, world: World, faults: Faults, rng: Random
    ) -> None:
        self._rng = rng
        self._daemon = daemon
        self._paths = paths
        self._world = world
        self._faults = faults
        self.recoveries: dict[str, list[float]] = {}

    # ---- actions

    async def start(self) -> None:
        await self._command("start")
        await self._until_answer("started", time.monotonic())

    async def versions(self) -> dict[str, str]:
        """Return the software: the versions of the daemon and of the libraries that compute."""
        status = await asyncio.to_thread(self._ask, "status")
        engine = status["engine"]
        return {"mlxd": status["version"],
                **{key: engine[key] for key in ("mlx", "mlx_lm", "blas")}}  # fmt: skip

    async def kill_engine(self) -> None:
        pid = await self._engine()
        if pid is not None:
            self._faults.note("kill engine")
            await self._strike(pid, signal.SIGKILL, "engine killed")

    async def stop_engine(self) -> None:
        """Stop the engine. The front must notice and replace it."""
        pid = await self._engine()
        if pid is not None:
            self._faults.note("stop engine")
            await self._strike(pid, signal.SIGSTOP, "engine stopped")
            await self._until_gone(pid)

    async def kill_front(self) -> None:
        """Kill the daemon, and start it again as a user would."""
        engine, front = await self._engine(), await self._front()
        self._faults.note("kill front")
        struck_s = time.monotonic()
        os.kill(front, signal.SIGKILL)
        await self._command("start")
        await self._until_answer("front killed", struck_s)
        if engine is not None:
            await self._until_gone(engine)

    async def restart(self) -> None:
        self._faults.note("restart")
        struck_s = time.monotonic()
        await self._command("restart")
        await self._until_answer("restarted", struck_s)

    async def kill_hub_worker(self) -> None:
        """Kill a hub worker. The caller that requested the download must not notice."""
        worker: list[psutil.Process] = []

        async def found() -> bool:
            worker[:] = machine.hub_workers(await self._front())
            return bool(worker)

        with contextlib.suppress(Failed):
            await self._until(found, HUB_WORKER_S, "a hub worker")
            await asyncio.sleep(self._rng.uniform(*HUB_WORKER_AGE_S))
            with contextlib.suppress(psutil.NoSuchProcess):
                worker[0].kill()
                self._faults.note("kill hub worker")

    async def hang_up(self) -> None:
        self._faults.note("log reopened")
        os.kill(await self._front(), signal.SIGHUP)

    async def unload(self) -> None:
        self._faults.note("unload")
        await asyncio.to_thread(self._ask, "unload", model="pocket")

    # ---- pauses and the end

    async def rest(self, began_s: float, phase: str) -> machine.Rest:
        """Let all callers finish and disconnect, then record the processes' resources."""
        self._world.gate.clear()
        try:
            await self._until(lambda: self._nobody(), QUIET_S, "callers to be served")
            status = await asyncio.to_thread(self._ask, "status")
            engine = status["engine"]["pid"]
            return machine.Rest(
                round(time.monotonic() - began_s, 1),
                phase,
                self._world.ledger.sent,
                machine.holding(status["pid"]),
                machine.holding(engine) if engine else None,
            )
        finally:
            self._world.gate.set()

    async def _nobody(self) -> bool:
        if self._world.busy:
            return False
        status = await asyncio.to_thread(self._ask, "status")
        return status["connections"] == 1 and not any(status["requests"].values())

    async def stop(self) -> None:
        """Stop the daemon. None of its processes may remain."""
        pids = [await self._front(), await self._engine()]
        await self._command("stop")
        for pid in pids:
            if pid is not None:
                await self._until_gone(pid)

    def check_conversations(self) -> dict[str, int]:
        """Check that the database is intact and contains the turns that callers were told of."""
        ledger = self._world.ledger
        kills = [one.began_s for one in self._faults.done if one.what == "kill front"]
        with closing(sqlite3.connect(self._paths.conversations_db)) as database:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
            rows = database.execute("SELECT conversation, answer FROM turns WHERE state = 'done'")
            stored = set(rows.fetchall())
            states = dict(database.execute("SELECT state, count(*) FROM turns GROUP BY state"))
        if verdict != "ok":
            ledger.violate(f"the conversations' database: {verdict}")
        missing = 0
        for when_s, conversation, answer in self._world.turns:
            excused = any(when_s <= kill <= when_s + JUST_BEFORE_S for kill in kills)
            if (conversation, answer) not in stored and not excused:
                missing += 1
        if missing:
            ledger.violate(f"{missing} turns are not in the database")
        return {"told": len(self._world.turns), "missing": missing, **states}

    def kill_all(self) -> None:
        """After a failure, end the processes that still use this run's socket."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("MLXD_SOCKET") == self._daemon.socket_path:
                    process.kill()
            except psutil.Error:
                continue

    # ---- helpers

    def _ask(self, method: str, **params: Any) -> Any:
        with self._daemon.peer() as peer:
            peer.sock.settimeout(COMMAND_S)
            return peer.call(method, **params)

    async def _strike(self, pid: int, number: int, what: str) -> None:
        struck_s = time.monotonic()
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return  # between the end of one and the start of the next
        await self._until_answer(what, struck_s)

    async def _front(self) -> int:
        status = await asyncio.to_thread(self._ask, "status")
        pid: int = status["pid"]
        return pid

    async def _engine(self) -> int | None:
        status = await asyncio.to_thread(self._ask, "status")
        pid: int | None = status["engine"]["pid"]
        return pid

    async def _until_answer(self, what: str, struck_s: float) -> None:
        """Wait for a completion by the process that replaced the killed one."""
        probe = asyncio.create_task(asyncio.to_thread(self._probe))
        await probe
        self.recoveries.setdefault(what, []).append(round(time.monotonic() - struck_s, 2))

    def _probe(self) -> None:
        deadline = time.monotonic() + COMMAND_S
        while time.monotonic() < deadline:
            answer = self._ask("chat", messages=[{"role": "user", "content": "Hi"}],
                                      max_tokens=1, temperature=0)  # fmt: skip
            if "choices" in answer:
                return
            if not answer["error"]["retryable"] and answer["error"]["code"] != "engine_died":
                raise Failed(f"a request after a fault: {answer['error']}")
            time.sleep(0.05)
        raise Failed("no answer after a fault")

    async def _command(self, verb: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *MLXD, verb, env=self._daemon.environ,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(), COMMAND_S)
        if process.returncode:
            raise Failed(f"mlxd {verb} exited with {process.returncode}: {said.decode()}")

    async def _until_gone(self, pid: int) -> None:
        async def gone() -> bool:
            try:
                return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True

        await self._until(gone, GONE_S, f"process {pid} to end")

    async def _until(self, done: Callable[[], Awaitable[bool]], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not await done():
            if time.monotonic() > deadline:
                raise Failed(f"waited {limit_s:.0f} s for {what}")
            await asyncio.sleep(0.1)


def stored_log(path: Path) -> str:
    """Return the engine's stderr. A traceback there is a failure."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
