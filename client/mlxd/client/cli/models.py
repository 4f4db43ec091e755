"""`mlx models`: the models on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.completion import complete_models
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.find_models import import_models, search, suggest
from mlxd.client.cli.groups import Group
from mlxd.client.cli.hub_names import parse_model
from mlxd.client.cli.options import absolute
from mlxd.client.cli.progress import follow
from mlxd.client.cli.tables import GAP, print_row, print_table, size
from mlxd.client.cli.terminal import tell
from mlxd.protocol.hub_environment import hub_environment

BITS = click.Choice(["2", "3", "4", "5", "6", "8"])
MODES = click.Choice(["affine", "mxfp4", "mxfp8", "nvfp4"])
DTYPES = click.Choice(["float16", "bfloat16", "float32"])

model_argument = click.argument("model", shell_complete=complete_models)
as_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group(cls=Group, epilog="\b\nExample:\n  mlx models pull mlx-community/Qwen3-4B-4bit\n"
             "  mlx models default Qwen3-4B\n")  # fmt: skip
def models() -> None:
    """Models on this machine."""


for command in (search, suggest, import_models):
    models.add_command(command)


@models.command("list")
@as_json_option
def list_models(as_json: bool) -> None:
    """List the models on this machine. * marks the default."""
    with connect() as client:
        found = client.request("models.list")
    if as_json:
        click.echo(json.dumps(found))
        return
    print_table(
        ("MODEL", "SIZE", "BITS", "CONTEXT", "SOURCE"),
        [_list_row(record, found["default"]) for record in found["models"]],
    )
    for alias, means in sorted(found["aliases"].items()):
        click.echo(f"{alias} → {means}")


def _list_row(record: dict[str, Any], default: str) -> tuple[str, ...]:
    problem = f" ({record['problem']})" if record["problem"] else ""
    return (
        record["name"] + (" *" if record["name"] == default else ""),
        size(record["bytes"] or 0),
        str(record["bits"] or record["dtype"] or "?"),
        str(record["context_tokens"] or "?"),
        record["source"] + problem,
    )


@models.command("show")
@click.argument("model", required=False, shell_complete=complete_models)
@as_json_option
def show_model(model: str | None, as_json: bool) -> None:
    """Show details of MODEL, or of the default model."""
    with connect() as client:
        record = client.request("models.show", model=absolute(model) if model else None)
    if as_json:
        click.echo(json.dumps(record))
        return
    rows = _show_rows(record)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_row(name.ljust(width) + GAP, value)


def _show_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    bits, group = record["bits"], record["group_size"]
    quantised = f"{bits} bits, groups of {group}" if bits else "no"
    fits = {True: "yes", False: "no", None: "unknown until a model is loaded"}
    parameters = record["parameters"]
    rows = [
        ("name", record["name"]),
        ("folder", record["path"]),
        ("source", record["source"]),
        ("revision", record["revision"]),
        ("architecture", record["architecture"]),
        ("parameters", f"{parameters / 1e6:,.1f} million" if parameters else None),
        ("size", size(record["bytes"])),
        ("quantised", quantised),
        ("type", record["dtype"]),
        ("context", f"{record['context_tokens']} tokens" if record["context_tokens"] else None),
        ("chat template", "yes" if record["chat_template"] else "no (a generic format is used)"),
        ("fits in memory", fits[record["fits_in_memory"]]),
        ("problem", record["problem"]),
        # Known while the model is loaded. A daemon of an older version does not send it.
        ("note", "; ".join(record.get("notes", ())) or None),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


@models.command()
@model_argument
@click.option("--revision", help="Branch, tag or commit.")
def pull(model: str, revision: str | None) -> None:
    """Download or update MODEL (ORG/NAME) from the Hugging Face hub.

    Interrupted downloads resume with the same command. HF_ENDPOINT sets a mirror.
    """
    model, revision = parse_model(model, revision)
    # The daemon may have been started without these variables.
    environment = hub_environment(os.environ) or None
    with connect() as client:
        stream = client.stream(
            "models.pull", model=model, revision=revision, environment=environment
        )
        record = follow(stream, f"Pulling {model}")
    tell(
        f"{record['name']} is complete ({size(record['bytes'])}). "
        f"Use it: mlx ask -m {record['name']} …"
    )


@models.command()
@model_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Folder to write. Default: a folder that is found by name.",
)
@click.option("-b", "--bits", type=BITS, help="Bits per weight.")
@click.option(
    "--group-size", type=int, help="Number of weights that share a scale.  [32, 64 or 128]"
)
@click.option("--mode", type=MODES, help="Quantisation mode.")
@click.option("--dtype", type=DTYPES, help="Data type of the unquantised weights.")
def convert(
    model: str,
    output: str | None,
    bits: str | None,
    group_size: int | None,
    mode: str | None,
    dtype: str | None,
) -> None:
    """Convert MODEL to MLX format, optionally quantised.

    \b
    Example:
      mlx models convert Qwen/Qwen3-0.6B --bits 4
    """
    if bits is None and (group_size or mode):
        raise click.UsageError("--group-size and --mode need --bits.")
    params: dict[str, Any] = {"group_size": group_size, "mode": mode, "dtype": dtype}
    if output is not None:
        params["output"] = str(Path(output).absolute())
    with connect() as client:
        stream = client.stream(
            "models.convert", model=absolute(model), bits=int(bits) if bits else None, **params
        )
        record = follow(stream, f"Converting {model}")
    tell(f"{size(record['source_bytes'])} became {size(record['bytes'])}: {record['path']}")
    tell(f"Use it: mlx ask -m {record['name']} …")


@models.command()
@model_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def rm(model: str, yes: bool) -> None:
    """Delete MODEL from the disk, with its cached prompts; of an imported model, only the link."""
    model = absolute(model)
    with connect() as client:
        record = client.request("models.show", model=model)
        if not yes:
            click.confirm(_question(record), abort=True, err=True)
        place = os.path.realpath(record["path"])
        removed = client.request("models.remove", model=model)
    if record["source"] == "imported":
        tell(f"Removed the link. The model remains at {place}.")
    else:
        tell(f"Deleted. Freed {size(removed['bytes'])}.")


def _question(record: dict[str, Any]) -> str:
    if record["source"] == "imported":
        return f"Remove the link {record['name']}? Its files remain."
    return f"Delete {record['name']} ({size(record['bytes'])})?"


@models.command()
@click.argument("model", required=False, shell_complete=complete_models)
def default(model: str | None) -> None:
    """Set the default model; without MODEL, show it."""
    with connect() as client:
        if model is None:
            click.echo(client.request("models.list")["default"])
            return
        result = client.request("models.default", model=absolute(model))
    if result["in_effect"] == result["default"]:
        tell(f"{result['default']} is now the default model.")
    else:
        tell(
            f"Saved, but MLXD_DEFAULT_MODEL is {result['in_effect']} for this daemon.\n"
            "Unset it and restart: mlxd restart"
        )


@models.command()
@click.argument("alias", required=False)
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("-d", "--delete", is_flag=True, help="Remove the alias.")
def alias(alias: str | None, model: str | None, delete: bool) -> None:
    """Define ALIAS as a name of MODEL. Without arguments, list the aliases.

    \b
    Example:
      mlx models alias big mlx-community/Qwen3-32B-4bit
    """
    with connect() as client:
        if alias is None:
            for name, means in sorted(client.request("models.list")["aliases"].items()):
                click.echo(f"{name} → {means}")
        elif delete == (model is not None):
            raise click.UsageError("Give ALIAS and MODEL, or ALIAS and --delete.")
        elif delete:
            client.request("models.alias", alias=alias)
            tell(f"Removed alias {alias!r}.")
        else:
            client.request("models.alias", alias=alias, model=absolute(str(model)))
            tell(f"{alias} means {model}.")
