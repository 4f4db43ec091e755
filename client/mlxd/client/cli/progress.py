"""Progress of downloads and conversions: a bar for each file on a terminal, nothing in a pipe."""

from __future__ import annotations

from typing import Any

from mlxd.client.cli.terminal import decorated, tell
from mlxd.client.sync import Stream


def follow(stream: Stream[dict[str, Any], Any], label: str) -> Any:
    """Show the progress events of a request and return its result. Ctrl-C cancels it."""
    with stream:
        if not decorated():
            tell(f"{label} …")
            for _ in stream:
                pass
        else:
            _draw(stream, label)
        return stream.result


def _draw(stream: Stream[dict[str, Any], Any], label: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TimeRemainingColumn(compact=True))  # fmt: skip
    bars: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        waiting = progress.add_task(label, total=None)
        for event in stream:
            if event["type"] != "progress":
                continue
            name = event["file"]
            if name not in bars:
                progress.remove_task(waiting) if not bars else None
                bars[name] = progress.add_task(name, total=event["total"] or None)
            progress.update(bars[name], completed=event["done"], total=event["total"] or None)
