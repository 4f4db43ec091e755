"""Runs hub workers: one process for each download or conversion."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxd.daemon import lifeline
from mlxd.daemon.front.log import Log
from mlxd.daemon.isolation import python_command
from mlxd.daemon.stderr import open_for_append
from mlxd.protocol.codec import Decoder
from mlxd.protocol.errors import EngineDied, Overloaded, error_from_map
from mlxd.protocol.messages import Notification

WORKERS_MAX = 8
"""Limit on concurrent downloads and conversions. Each is a process with a model's memory, or a
connection."""
RETRIES = 2
"""A killed worker is replaced. The next one resumes its work."""
TERM_GRACE_S = 3.0
READ_BYTES = 65536
STDERR_MAX_BYTES = 1 << 20

Report = Callable[[dict[str, Any]], None]


class HubWorkers:
    """Starts workers. Each worker belongs to one request and ends with it."""

    def __init__(self, stderr_path: Path, log: Log) -> None:
        self._stderr_path = stderr_path
        self._log = log
        self.running = 0

    async def run(self, job: dict[str, Any], report: Report) -> Any:
        """Do a job and return its result. `report` receives the progress.

        Raises the worker's error, or EngineDied if workers are killed repeatedly. Cancelling ends
        the worker.
        """
        if self.running >= WORKERS_MAX and job["task"] != "remove":
            raise Overloaded(
                f"{self.running} downloads and conversions are running.",
                hint="Try again when one of them has ended.",
                data={"retry_after_s": 10.0, "max_workers": WORKERS_MAX},
            )
        self.running += 1
        try:
            for _ in range(1 + RETRIES):
                answer = await self._once(job, report)
                if answer is not None:
                    return _result(answer)
                self._log("hub worker died", level="warning", task=job["task"])
        finally:
            self.running -= 1
        raise EngineDied(
            f"The worker for the task {job['task']} died {1 + RETRIES} times.",
            hint="Its work is kept. See the reason, then try again: mlxd logs -n 50",
        )

    async def _once(self, job: dict[str, Any], report: Report) -> Notification | None:
        """Return the worker's result or error message, or None if it died without one."""
        process = await self._start()
        guard = None
        try:
            guard = lifeline.guard(process.pid)
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(job).encode() + b"\n")
                await process.stdin.drain()
            return await _converse(process, report)
        finally:
            await _end(process)
            if guard is not None:
                guard.release()

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            with os.fdopen(open_for_append(self._stderr_path, STDERR_MAX_BYTES), "ab") as errors:
                return await asyncio.create_subprocess_exec(
                    *python_command("mlxd.daemon.hub"),
                    str(os.getpid()),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as exc:  # too many processes or open files, or no memory
            raise Overloaded(
                f"The worker could not be started: {exc.strerror or exc}.",
                hint="Close other programs, or check the limits: mlxd doctor",
                data={"retry_after_s": 10.0},
            ) from exc


async def _converse(process: asyncio.subprocess.Process, report: Report) -> Notification | None:
    assert process.stdout is not None
    decoder = Decoder(trusted=True)
    while data := await process.stdout.read(READ_BYTES):
        decoder.feed(data)
        for message in decoder:
            assert isinstance(message, Notification)
            if message.method != "progress":
                return message
            report(message.params)
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for the process to end. A worker that still runs is told to stop."""
    # Not `terminate()`, which may reap the process before asyncio does. asyncio could not then.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), TERM_GRACE_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


def _result(answer: Notification) -> Any:
    if answer.method == "error":
        raise error_from_map(answer.params)
    return answer.params
