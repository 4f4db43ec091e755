"""`mlxd status`: whether a daemon runs, and how it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from mlxd.daemon import control, home, lock
from mlxd.daemon.cli.places import current_service
from mlxd.launchd.service import ServiceState
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths, resolve_paths

_HIDDEN = frozenset({"models"})
_LABEL_WIDTH = 22


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> int:
    """Show how the daemon stands. Starts nothing.

    Exits with 3 where no daemon runs.
    """
    paths = resolve_paths()
    service = current_service(paths).state()
    # Asking the socket would start a service that waits for its first caller; the lock tells.
    if not lock.is_held(paths.lock_file):
        _show_stopped(paths, service, as_json=as_json)
        return DaemonUnreachable.exit_code
    record = control.request(paths.socket, "status")
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        for line in lines(record):
            click.echo(line)
    return 0


def _show_stopped(paths: Paths, service: ServiceState, *, as_json: bool) -> None:
    if as_json:
        about = {"state": "stopped", "socket": str(paths.socket), "service": service.installed}
        click.echo(json.dumps(about, indent=2, sort_keys=True))
        return
    if (other := home.elsewhere(paths)) is not None:
        raise other
    click.echo(f"mlxd: No daemon is running at {paths.socket}.", err=True)
    if service.loaded:
        click.echo(f"      {service.manager} starts it for the first request.", err=True)
    else:
        click.echo("      Start it: mlxd start", err=True)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the daemon's own record for people: whatever it reports, one line each."""
    for label, value in _rows(record):
        yield f"{label:{_LABEL_WIDTH}} {value}"
    for model in record.get("models") or []:
        yield f"{'model':{_LABEL_WIDTH}} {_model(model)}"


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
        if name.endswith("_s"):
            return name[:-2].replace("_", " "), duration(value)
        if name.endswith("bytes"):
            return name[: -len("bytes")].strip("_ ").replace("_", " ") or "size", size(value)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value) or "none"
    return name.replace("_", " "), str(value)


def _model(model: Any) -> str:
    if not isinstance(model, dict):
        return str(model)
    words = [str(model.get("model") or model.get("name") or "?")]
    if model.get("bytes"):
        words.append(size(model["bytes"]))
    if model.get("requests"):
        words.append(f"{model['requests']} requests")
    if model.get("pinned"):
        words.append("pinned")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Return seconds as people say them: `1 h 2 min`, `4.2 s`."""
    if seconds < 0:
        return "forever"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} days {minutes // 60 % 24} h"


def size(count: float) -> str:
    """Return bytes as people say them."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"
