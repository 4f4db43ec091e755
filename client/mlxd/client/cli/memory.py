"""`mlx ps`, `load` and `unload`: loaded models."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from mlxd.client.cli.completion import complete_models
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import Span, absolute
from mlxd.client.cli.tables import ago, duration, print_table, size
from mlxd.client.cli.terminal import spinner

EVICTIONS_SHOWN = 3
"""Number of recent evictions to show below the table."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ps(as_json: bool) -> None:
    """Show the loaded models."""
    with connect() as client:
        answer = client.request("ps")
    models = answer["models"]
    if as_json:
        click.echo(json.dumps(models))
        return
    rows = [ps_row(model) for model in models]
    if rows:
        print_table(("MODEL", "SIZE", "LAST USED", "EXPIRES"), rows)
    else:
        click.echo("No model is in memory. The next request loads one.", err=True)
    for model in models:
        for note in model.get("notes", ()):  # none from a daemon of an older version
            click.echo(f"{model['model']}: {note}.", err=True)
    # Older daemons report no evictions.
    for one in answer.get("evicted", ())[-EVICTIONS_SHOWN:]:
        when = ago(time.time() - one["at"])
        click.echo(f"{one['model']} was evicted {when}: {one['reason']}.", err=True)


def ps_row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["model"],
        size(model["bytes"]),
        _last_used(model),
        _expires(model),
    )


def _last_used(model: dict[str, Any]) -> str:
    count = model["requests"]
    if not count:
        return ago(model["idle_s"])
    return f"now, {count} request{'' if count == 1 else 's'}"


def _expires(model: dict[str, Any]) -> str:
    keep_alive_s = model["keep_alive_s"]
    if model["pinned"]:
        return "never (pinned)"
    if keep_alive_s < 0:
        return "never"
    if model["requests"]:
        return f"{duration(keep_alive_s)} after use"
    return f"in {duration(max(0.0, keep_alive_s - model['idle_s']))}"


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("--keep-alive", type=Span(), help="Time after its last use: 30m, 2h, forever.")
@click.option("--pin/--no-pin", default=None, help="Never evict it to free memory, or unpin it.")
def load(model: str | None, keep_alive: float | None, pin: bool | None) -> None:
    """Load MODEL (default: the default model) and keep it loaded."""
    name = absolute(model) if model else None
    with connect() as client, spinner("loading"):
        result = client.load(name, keep_alive_s=keep_alive, pin=pin)
    click.echo(load_message(result))


def load_message(result: Mapping[str, Any]) -> str:
    if "pinned" not in result:  # an older daemon
        return f"{result['model']}: {size(result['bytes'])} in {result['load_s']:.1f} s"
    took = f"loaded in {result['load_s']:.1f} s"
    if result["was_loaded"]:
        took = "was already in memory"
    keeps_s = result["keep_alive_s"]
    stays = "until it is unloaded" if keeps_s < 0 else f"for {duration(keeps_s)} after its last use"
    if result["pinned"]:
        stays = "pinned until it is unloaded"
    return f"{result['model']} ({size(result['bytes'])}) {took}. It stays {stays}."


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("-a", "--all", "everything", is_flag=True, help="Unload every model.")
def unload(model: str | None, everything: bool) -> None:
    """Unload MODEL (default: the default model) from memory."""
    if everything and model is not None:
        raise click.UsageError("Give MODEL or --all, not both.")
    with connect() as client:
        if everything:
            result = client.request("unload", all=True)
        else:
            result = client.unload(absolute(model) if model else None)
    click.echo(_unloaded(result))


def _unloaded(result: dict[str, Any]) -> str:
    names = ", ".join(result.get("models", ()))  # older daemons name none
    if result["pending_requests"]:
        count = result["pending_requests"]
        return f"{names or 'The model'} will be unloaded after {count} running requests."
    if not result["unloaded"]:
        return "Not in memory. List the loaded models: mlx ps"
    return f"Unloaded {names}." if names else "Unloaded."
