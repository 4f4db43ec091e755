"""`mlx batch`: many requests from a file, at the lowest priority, resumable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import click

from mlxd.client.aio import AsyncClient
from mlxd.client.cli.batch_files import Item, finished_lines, read_items, record
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import given, params_of, shared_options
from mlxd.client.cli.sections import Sectioned
from mlxd.client.cli.terminal import decorated, tell
from mlxd.client.fast.mlx_options import long_flags
from mlxd.protocol.errors import DaemonUnreachable, EngineDied, MlxdError, Overloaded, ShuttingDown

TRIES = 6
PAUSE_S = 0.25
AHEAD = 4
"""How many times --jobs may be finished before an earlier line is, when the order is kept."""
AGAIN = (DaemonUnreachable, EngineDied, ShuttingDown)
NOT_HERE = (
    "file", "template", "param", "edit", "json", "events", "extract", "continue", "conversation",
    "plain", "no_stream", "verbose",
)  # fmt: skip


@click.command(
    cls=Sectioned,
    without=(*NOT_HERE, "log"),
    epilog="Each line of IN is a JSON object with `prompt`, `messages` or `prefix`, perhaps "
    "an `id`, and any parameter of the request; or a JSON string, which is the prompt.\n\n"
    "\b\nExample:\n  mlx batch questions.jsonl -o answers.jsonl --preset precise\n",
)
@click.argument("source", metavar="IN.jsonl", type=click.Path(exists=True, allow_dash=True))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File; absent: stdout.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=8, help="Requests at once.  [8]")
@click.option("--as-finished", is_flag=True, help="Write answers as they come, not in order.")
@shared_options
def batch(source: str, output: str | None, jobs: int, as_finished: bool, **values: Any) -> int:
    """Answer every line of IN; a run that was stopped goes on where it was.

    With -o, lines that were answered already are not asked again, and those that failed are.
    """
    found = given(values)
    for name in NOT_HERE:
        if name in found:
            raise click.UsageError(f"{long_flags()[name]} has no meaning in a batch.")
    defaults = {"priority": "batch", **params_of("ask", {**found, "log": False}, "")}
    system = [m for m in defaults.pop("messages") if m["role"] == "system"]
    defaults.pop("scope", None)
    items = read_items(source, defaults, system)
    done = finished_lines(Path(output), items) if output else set()
    waiting = [item for item in items if item.line not in done]
    if done:
        tell(f"{len(done)} of {len(items)} lines are answered already.")
    connect().close()  # starts a daemon where none runs
    with _opened(output) as file, _bar(len(items), len(done)) as advance:
        run = Run(waiting, file, jobs, keep_order=not as_finished, advance=advance)
        try:
            asyncio.run(run.all())
        except KeyboardInterrupt:
            tell("\nStopped. The same command goes on from here." if output else "\nStopped.")
            return 130
    return _verdict(run.errors, len(waiting), output)


def _verdict(errors: list[MlxdError], count: int, output: str | None) -> int:
    if not errors:
        return 0
    again = " The same command asks them again." if output else ""
    tell(f"mlx: {len(errors)} of {count} failed, the first one: {errors[0].message}.{again}")
    return errors[0].exit_code


@contextlib.contextmanager
def _opened(output: str | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    # What people ask is nobody else's business.
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "a", encoding="utf-8") as file:
        yield file


@contextlib.contextmanager
def _bar(total: int, done: int) -> Iterator[Any]:
    if not decorated():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda: progress.advance(task)


class Run:
    """Requests in flight. Every item gets one line of output, whatever happens."""

    def __init__(
        self, items: list[Item], file: IO[str], jobs: int, *, keep_order: bool, advance: Any
    ) -> None:
        self.errors: list[MlxdError] = []
        self._items = items
        self._file = file
        self._jobs = jobs
        self._keep_order = keep_order
        self._advance = advance
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def all(self) -> None:
        """Ask everything and write the answers."""
        try:
            async for line in self._lines():
                self._file.write(line + "\n")
                self._file.flush()
                self._advance()
        finally:
            if self._client is not None:
                await self._client.aclose()

    async def _lines(self) -> AsyncIterator[str]:
        room = asyncio.Semaphore(self._jobs)
        waiting = iter(self._items)
        tasks: list[asyncio.Task[str]] = []
        while True:
            while len(tasks) < self._jobs * AHEAD and (item := next(waiting, None)) is not None:
                tasks.append(asyncio.create_task(self._one(item, room)))
            if not tasks:
                return
            if not self._keep_order:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                tasks.sort(key=lambda task: not task.done())
            yield await tasks.pop(0)

    async def _one(self, item: Item, room: asyncio.Semaphore) -> str:
        async with room:
            try:
                return record(item, result=await self._asked(item))
            except MlxdError as error:
                self.errors.append(error)
                return record(item, error=error)

    async def _asked(self, item: Item) -> dict[str, Any]:
        """Ask, and ask again while the daemon is busy or being restarted."""
        for attempt in range(TRIES):
            try:
                if item.error is not None:
                    raise item.error
                client = await self._connected()
                result: dict[str, Any] = await client.request(item.method, **item.params)
                return result
            except Overloaded as error:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(error.data.get("retry_after_s", 1.0))
            except AGAIN:
                self._client = None
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                await asyncio.to_thread(lambda: connect().close())
                self._client = await AsyncClient.connect()
            return self._client
