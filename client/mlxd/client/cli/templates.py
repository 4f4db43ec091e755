"""`mlx templates`: list, show, edit and delete named prompts."""

from __future__ import annotations

import re

import click

from mlxd.client.cli.completion import complete_templates
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import Group
from mlxd.client.cli.inputs import as_text, edited, read_file
from mlxd.client.cli.tables import print_table
from mlxd.client.cli.template_files import SHIPPED, names, path_of, read, user_folder
from mlxd.client.cli.terminal import tell, visible

NAME = re.compile(r"[\w][\w.-]*")


@click.group("templates", cls=Group)
def templates() -> None:
    """Named prompts for `mlx ask -t NAME`."""


@templates.command("list")
def list_templates() -> None:
    """List the templates."""
    rows: list[tuple[str, ...]] = []
    for name, path in names().items():
        mine = "" if path.parent == SHIPPED else " (yours)"
        try:
            about = read(name, path).description
        except Misuse as exc:
            about = f"cannot be used: {exc.message}"
        rows.append((name, visible(" ".join(about.split())) + mine))
    print_table(("TEMPLATE", "WHAT IT DOES"), rows)


@templates.command("show")
@click.argument("name")
def show_template(name: str) -> None:
    """Print the template NAME."""
    path = path_of(name)
    tell(str(path))
    click.echo(as_text(read_file(str(path)), str(path)).rstrip())


@templates.command("rm")
@click.argument("name", shell_complete=complete_templates)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def rm_template(name: str, yes: bool) -> None:
    """Delete your template NAME. If it replaced a built-in template, that one is used again."""
    path = path_of(name)
    if path.parent == SHIPPED:
        raise Misuse(
            f"{name} is built in and cannot be removed.",
            hint="List your templates: mlx templates list",
        )
    if not yes:
        click.confirm(f"Delete {path}?", abort=True, err=True)
    path.unlink()
    tell(f"Deleted {name}." + (" The built-in one is used again." if name in names() else ""))


@templates.command("edit")
@click.argument("name")
def edit_template(name: str) -> None:
    """Edit the template NAME in $EDITOR: a new one, your own, or a copy of a built-in one."""
    if not NAME.fullmatch(name):
        raise click.BadParameter(
            "must consist of letters, digits, dots and dashes", param_hint="NAME"
        )
    path = user_folder() / f"{name}.toml"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        start = names().get(name, SHIPPED / "explain.toml")
        path.write_text(start.read_text(encoding="utf-8"), encoding="utf-8")
    edited(filename=str(path))
    read(name, path)
    tell(f"Use it: mlx ask -t {name}")
