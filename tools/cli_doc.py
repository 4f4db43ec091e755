"""Writes `docs/cli.md` from the commands' own help.

python tools/cli_doc.py            writes it
python tools/cli_doc.py --check    exits 1 where the page says something else
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mlxd.client import cli as client
from mlxd.daemon import cli as daemon
from mlxd.protocol.errors import exit_codes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 100
HEAD = f"""# Commands

What `--help` says, in one page; written by `tools/cli_doc.py`.

Exit codes: {exit_codes()}.
`mlxd status` and `mlxd stop` exit 3 when no daemon runs. What each failure means and what to do
about it is in [troubleshooting.md](troubleshooting.md#all-errors).
"""


def sections(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    """Yield a section for a command and for each of its subcommands."""
    ctx = click.Context(command, info_name=path.split()[-1], parent=parent, max_content_width=WIDTH,
                        terminal_width=WIDTH, help_option_names=["-h", "--help"])  # fmt: skip
    lines = [line.rstrip() for line in command.get_help(ctx).splitlines()]
    yield f"## {path}\n\n```text\n" + "\n".join(lines) + "\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            if inner is not None:
                yield from sections(inner, f"{path} {name}", ctx)


def page() -> str:
    """Return the whole page."""
    programs = (("mlx", client.cli), ("mlxd", daemon.cli))
    return "\n".join(
        [HEAD, *(part for name, cli in programs for part in sections(cli, name, None))]
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
