"""`mlxd status`: show whether the daemon runs, and its state."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from mlxd.daemon import control, home, lock
from mlxd.daemon.cli.failures import say
from mlxd.daemon.cli.places import current_service
from mlxd.daemon.cli.units import quantity, size, spaced, visible
from mlxd.launchd.service import ServiceState
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths, resolve_paths
from mlxd.protocol.wrapping import wrapped

_HIDDEN = frozenset({"models", "evicted"})
_LABEL_WIDTH = 22


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--socket", is_flag=True, help="Print only the path of the daemon's socket.")
def status(as_json: bool, socket: bool) -> int:
    """Show the daemon's status, without starting it.

    Exits with 3 if no daemon is running. --socket needs none.
    """
    paths = resolve_paths()
    if socket:
        click.echo(os.fspath(paths.socket))
        return 0
    service = current_service(paths).state()
    # Not the socket: connecting to it would start a service that waits for its first request.
    if not lock.is_held(paths.lock_file):
        _show_stopped(paths, service, as_json=as_json)
        return DaemonUnreachable.exit_code
    record = control.request(paths.socket, "status")
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in lines(record, width):
            click.echo(line)
    return 0


def _show_stopped(paths: Paths, service: ServiceState, *, as_json: bool) -> None:
    if as_json:
        about = {"state": "stopped", "socket": str(paths.socket), "service": service.installed}
        click.echo(json.dumps(about, indent=2, sort_keys=True))
        return
    if (other := home.elsewhere(paths)) is not None:
        raise other
    on_demand = f"{service.manager} starts it for the first request."
    say(
        f"No daemon is running at {paths.socket}.",
        on_demand if service.loaded else "Start it: mlxd start",
    )


def lines(record: Mapping[str, Any], width: int | None = None) -> Iterator[str]:
    """Yield a line for each value that the daemon reports, wrapped to `width` columns."""
    for label, value in _all_rows(record):
        first, text = f"{label:{_LABEL_WIDTH}} ", visible(value)
        yield first + text if width is None else wrapped(text, width, first=first, rest="  ")


def _all_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _rows(record)
    for model in record.get("models") or []:
        yield "model", _model(model)
    for one in record.get("evicted") or []:
        when = time.strftime("%H:%M", time.localtime(one["at"]))
        yield "evicted", f"{one['model']} at {when}: {one['reason']}"


def _rows(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if key in _HIDDEN or value is None or value == "":
            continue
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{key} ")
        else:
            yield _labelled(prefix + key, value)


def _labelled(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return quantity(name, value)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value) or "none"
    return spaced(name), str(value)


def _model(model: Any) -> str:
    if not isinstance(model, dict):
        return str(model)
    words = [str(model.get("model") or model.get("name") or "?")]
    if model.get("bytes"):
        words.append(size(model["bytes"]))
    if model.get("requests"):
        count = model["requests"]
        words.append(f"{count} request{'' if count == 1 else 's'} running")
    if model.get("pinned"):
        words.append("pinned")
    return ", ".join(words)
