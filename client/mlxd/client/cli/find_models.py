"""`mlx models search`, `suggest` and `import`: find models on the hub, and those of other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.daemon import connect
from mlxd.client.cli.tables import print_table, size
from mlxd.client.cli.terminal import spinner, tell
from mlxd.protocol.hub_environment import hub_environment

as_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")
limit_option = click.option(
    "-n", "--limit", type=click.IntRange(1, 100), default=20, help="Maximum number of models.  [20]"
)


@click.command(epilog="\b\nExample:\n  mlx models search qwen3 4bit\n")
@click.argument("words", nargs=-1, required=True)
@limit_option
@as_json_option
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Search the Hugging Face hub for MLX models.

    FITS states whether a model fits into this machine's memory budget.
    """
    found = _search(" ".join(words), limit)
    if as_json:
        click.echo(json.dumps(found))
    elif not found["models"]:
        tell(f"No MLX model on the hub matches {' '.join(words)}. Try fewer words.")
    else:
        _print(found)


@click.command()
@limit_option
@as_json_option
def suggest(limit: int, as_json: bool) -> None:
    """List popular MLX models that fit into this machine's memory, largest first."""
    found = _search(None, limit)
    if as_json:
        click.echo(json.dumps(found))
    elif not found["models"]:
        tell(f"No popular model fits into {size(found['memory_budget_bytes'])}. Try: "
             "mlx models search WORDS")  # fmt: skip
    else:
        _print(found)


def _search(query: str | None, limit: int) -> dict[str, Any]:
    # The daemon may have been started in another shell, without these variables.
    environment = hub_environment(os.environ) or None
    with connect() as client, spinner("searching"):
        found: dict[str, Any] = client.request(
            "models.search", query=query, limit=limit, environment=environment
        )
    return found


def _print(found: Mapping[str, Any]) -> None:
    rows = [_row(model) for model in found["models"]]
    print_table(("MODEL", "SIZE", "FITS", "DOWNLOADS", "NOTE"), rows)
    tell(
        f"Memory budget: {size(found['memory_budget_bytes'])}. Download one: mlx models pull MODEL"
    )


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        note
        for note, applies in (
            ("on this machine", model["on_this_machine"]),
            ("terms to accept", model["gated"]),
        )
        if applies
    ]
    return (
        model["name"],
        size(model["bytes"]),
        "yes" if model["fits_in_memory"] else "no",
        f"{model['downloads']:,}",
        ", ".join(notes),
    )


@click.command("import", epilog="\b\nExamples:\n  mlx models import\n"
               "  mlx models import /Volumes/models\n")  # fmt: skip
@click.argument("path", required=False, type=click.Path())
@as_json_option
def import_models(path: str | None, as_json: bool) -> None:
    """Use the MLX models that other tools have downloaded.

    PATH is the folder of a model, or a folder that contains model folders. Without PATH, the
    folders of LM Studio and oMLX are searched. Models are linked, not copied; `mlx models rm`
    removes the link only.
    """
    folder = None if path is None else str(Path(path).expanduser().absolute())
    with connect() as client:
        report = client.request("models.import", path=folder)
    if as_json:
        click.echo(json.dumps(report))
        return
    for model in report["imported"]:
        click.echo(f"{model['name']} → {model['path']}")
    for model in report["skipped"]:
        tell(f"Skipped {model['path']}: {model['problem']}.")
    tell(_summary(report))


def _summary(report: Mapping[str, Any]) -> str:
    imported, known = len(report["imported"]), len(report["known"])
    if imported:
        name = report["imported"][0]["name"]
        return f"Imported {_models(imported)}. Use one: mlx ask -m {name} …"
    if known:
        return f"Nothing to import: {_models(known)} already known."
    return "No MLX models of LM Studio or oMLX were found. Give a folder: mlx models import PATH"


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
