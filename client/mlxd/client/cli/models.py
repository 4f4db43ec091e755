"""`mlx ps`, `load`, `unload` and `models`."""

from __future__ import annotations

import json
from typing import Any

import click

from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import absolute
from mlxd.client.cli.terminal import spinner


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def ps(as_json: bool) -> None:
    """Show the models that are in memory."""
    with connect() as client:
        models = client.ps()
    if as_json:
        click.echo(json.dumps(models))
        return
    rows = [_ps_row(model) for model in models]
    if rows:
        _table(("MODEL", "SIZE", "IDLE", "KEEPS", "REQUESTS"), rows)
    else:
        click.echo("No model is in memory. The next question loads one.", err=True)


def _ps_row(model: dict[str, Any]) -> tuple[str, ...]:
    keeps = "pinned" if model["pinned"] else f"{model['keep_alive_s']:.0f} s"
    if model["keep_alive_s"] < 0:
        keeps = "forever"
    return (
        model["model"],
        _size(model["bytes"]),
        f"{model['idle_s']:.0f} s",
        keeps,
        str(model["requests"]),
    )


@click.command()
@click.argument("model", required=False)
@click.option("--keep-alive", type=float, help="Seconds after its last use; -1: forever.")
@click.option("--pin", is_flag=True, help="Never evict it to make room.")
def load(model: str | None, keep_alive: float | None, pin: bool) -> None:
    """Load MODEL (or the default one) and keep it warm."""
    name = absolute(model) if model else None
    with connect() as client, spinner("loading"):
        result = client.load(name, keep_alive_s=keep_alive, pin=pin or None)
    click.echo(f"{result['model']}: {_size(result['bytes'])} in {result['load_s']:.1f} s")


@click.command()
@click.argument("model", required=False)
def unload(model: str | None) -> None:
    """Free the memory of MODEL (or the default one)."""
    with connect() as client:
        result = client.unload(absolute(model) if model else None)
    if result["pending_requests"]:
        click.echo(f"It goes when {result['pending_requests']} requests are done.")
    else:
        click.echo("Unloaded." if result["unloaded"] else "It was not in memory.")


@click.group()
def models() -> None:
    """Models on this machine."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_models(as_json: bool) -> None:
    """List the models that can be asked."""
    with connect() as client:
        found = client.request("models.list")
    if as_json:
        click.echo(json.dumps(found))
        return
    rows: list[tuple[str, ...]] = [
        (
            record["name"] + (" *" if record["name"] == found["default"] else ""),
            _size(record["bytes"] or 0),
            record["source"],
        )
        for record in found["models"]
    ]
    _table(("MODEL", "SIZE", "SOURCE"), rows)


@models.command("show")
@click.argument("model", required=False)
def show_model(model: str | None) -> None:
    """Show what is known of MODEL (or of the default one)."""
    with connect() as client:
        record = client.request("models.show", model=absolute(model) if model else None)
    width = max(len(name) for name in record)
    for name, value in record.items():
        click.echo(f"{name.ljust(width)}  {value}")
