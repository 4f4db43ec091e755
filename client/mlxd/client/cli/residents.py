"""`mlx ps`, `load` and `unload`: what is in memory."""

from __future__ import annotations

import json
from typing import Any

import click

from mlxd.client.cli.completion import complete_models
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import Span, absolute
from mlxd.client.cli.tables import print_table, size
from mlxd.client.cli.terminal import spinner


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def ps(as_json: bool) -> None:
    """Show the models that are in memory."""
    with connect() as client:
        models = client.request("ps")["models"]
    if as_json:
        click.echo(json.dumps(models))
        return
    rows = [_ps_row(model) for model in models]
    if rows:
        print_table(("MODEL", "SIZE", "IDLE", "KEEPS", "REQUESTS"), rows)
    else:
        click.echo("No model is in memory. The next question loads one.", err=True)


def _ps_row(model: dict[str, Any]) -> tuple[str, ...]:
    keeps = "pinned" if model["pinned"] else f"{model['keep_alive_s']:.0f} s"
    if model["keep_alive_s"] < 0:
        keeps = "forever"
    return (
        model["model"],
        size(model["bytes"]),
        f"{model['idle_s']:.0f} s",
        keeps,
        str(model["requests"]),
    )


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("--keep-alive", type=Span(), help="After its last use: 30m, 2h, forever.")
@click.option("--pin", is_flag=True, help="Never evict it to make room.")
def load(model: str | None, keep_alive: float | None, pin: bool) -> None:
    """Load MODEL (or the default one) and keep it warm."""
    name = absolute(model) if model else None
    with connect() as client, spinner("loading"):
        result = client.load(name, keep_alive_s=keep_alive, pin=pin or None)
    click.echo(f"{result['model']}: {size(result['bytes'])} in {result['load_s']:.1f} s")


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("-a", "--all", "everything", is_flag=True, help="Every model in memory.")
def unload(model: str | None, everything: bool) -> None:
    """Free the memory of MODEL (default: the default model)."""
    if everything and model is not None:
        raise click.UsageError("Give MODEL or --all, not both.")
    with connect() as client:
        if everything:
            result = client.request("unload", all=True)
        else:
            result = client.unload(absolute(model) if model else None)
    click.echo(_unloaded(result))


def _unloaded(result: dict[str, Any]) -> str:
    names = ", ".join(result.get("models", ()))  # a daemon of an older version names none
    if result["pending_requests"]:
        count = result["pending_requests"]
        return f"{names or 'The model'} will be unloaded after {count} running requests."
    if not result["unloaded"]:
        return "Not in memory. See what is: mlx ps"
    return f"Unloaded {names}." if names else "Unloaded."
