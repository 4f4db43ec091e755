"""`mlx batch`: many requests from a file, at the lowest priority, resumable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import click

from mlxd.client.aio import AsyncClient
from mlxd.client.cli.batch_files import (
    Item,
    Resumed,
    finished_lines,
    output_of,
    read_items,
    record,
    truncation,
)
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.inputs import same_file
from mlxd.client.cli.options import given, params_of, shared_options
from mlxd.client.cli.sections import Sectioned
from mlxd.client.cli.terminal import decorated, tell
from mlxd.client.fast.options import long_flags
from mlxd.client.fast.text import is_cut
from mlxd.protocol.errors import (
    ConnectionClosed,
    DaemonUnreachable,
    EngineDied,
    MlxdError,
    Overloaded,
    ShuttingDown,
)

TRIES = 6
PAUSE_S = 0.25
AHEAD = 4
"""In input order, at most this many times --jobs requests may finish before an earlier one."""
AGAIN = (ConnectionClosed, DaemonUnreachable, EngineDied, ShuttingDown)
NOT_HERE = (
    "file", "template", "param", "edit", "json", "events", "extract", "continue", "conversation",
    "plain", "no_stream", "verbose", "copy",
)  # fmt: skip


@click.command(
    cls=Sectioned,
    without=(*NOT_HERE, "log"),
    epilog="Each line of IN is a JSON object with `prompt`, `messages` or `prefix`, "
    "optionally an `id`, and any parameter of the request. It may also be a JSON string, which is "
    "the prompt.\n\n"
    "\b\nExample:\n  mlx batch questions.jsonl -o answers.jsonl --preset precise\n",
)
@click.argument("source", metavar="IN.jsonl", type=click.Path(allow_dash=True))
@click.option("-o", "--output", type=click.Path(), help="File to write. Default: stdout.")
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=8, help="Concurrent requests.  [8]"
)
@click.option("--as-finished", is_flag=True, help="Write answers as they finish, not in order.")
@shared_options
def batch(source: str, output: str | None, jobs: int, as_finished: bool, **values: Any) -> int:
    """Answer every line of IN. With -o, the same command resumes an interrupted run.

    Completed lines are skipped. Failed and edited lines are retried. A line is identified by its
    content, so lines may be added, removed or moved. Earlier answers are kept even if options
    change.
    """
    found = given(values)
    for name in NOT_HERE:
        if name in found:
            raise click.UsageError(f"{long_flags()[name]} cannot be used in a batch.")
    defaults = {"priority": "batch", **params_of("ask", {**found, "log": False}, "")}
    system = [m for m in defaults.pop("messages") if m["role"] == "system"]
    defaults.pop("scope", None)
    if output is not None and same_file(source, output):
        raise Misuse("Input and output are the same file.", hint="Choose another -o.")
    items = read_items(source, defaults, system)
    target = output_of(output)
    resumed = target.path if target.resumable else None
    earlier = finished_lines(resumed, items) if resumed else Resumed()
    done = earlier.lines
    waiting = [item for item in items if item.line not in done]
    quiet = bool(found.get("quiet"))
    for remark in () if quiet else earlier.remarks(len(items)):
        tell(remark)
    connect().close()  # starts a daemon if none is running
    with target.opened() as file, _bar(len(items), len(done), quiet=quiet) as advance:
        run = Run(waiting, file, jobs, keep_order=not as_finished, advance=advance)
        try:
            asyncio.run(run.all())
        except KeyboardInterrupt:
            tell("\nStopped. The same command resumes here." if resumed else "\nStopped.")
            return 130
    if run.truncated and not quiet:
        tell(f"mlx: {run.truncated} truncated at max_tokens. Raise the limit: --max-tokens N")
    return verdict_of(run.errors, len(waiting), resumed)


def verdict_of(errors: list[MlxdError], count: int, resumed: Path | None) -> int:
    if not errors:
        return 0
    again = " The same command retries them." if resumed else ""
    first = errors[0].message.rstrip(".")
    tell(f"mlx: {len(errors)} of {count} failed. The first error: {first}.{again}")
    return errors[0].exit_code


@contextlib.contextmanager
def _bar(total: int, done: int, *, quiet: bool) -> Iterator[Any]:
    if quiet or not decorated():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda: progress.advance(task)


class Run:
    """Keeps several requests in flight. Every item results in one line of output."""

    def __init__(
        self, items: list[Item], file: IO[str], jobs: int, *, keep_order: bool, advance: Any
    ) -> None:
        self.errors: list[MlxdError] = []
        self.truncated = 0
        self._items = items
        self._file = file
        self._jobs = jobs
        self._keep_order = keep_order
        self._advance = advance
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def all(self) -> None:
        """Send every request and write the answers."""
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
                return self._answered(item, await self._asked(item))
            except MlxdError as error:
                self.errors.append(error)
                return record(item, error=error)

    def _answered(self, item: Item, result: Any) -> str:
        error = truncation(result)
        if error is not None:
            self.errors.append(error)
        else:
            self.truncated += is_cut(result)
        return record(item, result=result, error=error)

    async def _asked(self, item: Item) -> dict[str, Any]:
        """Send a request. Retry while the daemon is busy or restarting."""
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
